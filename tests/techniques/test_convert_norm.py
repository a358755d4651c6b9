"""Converting norms: which modules are norms, what goes over, and the way back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab import nn as tnn
from trimtab.reading.norms import NORM_KINDS, Norm, recognise
from trimtab.techniques.engines.converting import fitting_groups

C = 8


def model_of(norm: nn.Module, features_last: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    if features_last:
        return nn.Sequential(nn.Linear(5, C), norm, nn.Tanh(), nn.Linear(C, 2))
    return nn.Sequential(nn.Conv2d(3, C, 3), norm, nn.ReLU(), nn.Conv2d(C, 2, 3))


FIRST = {
    "batch_norm": lambda: nn.BatchNorm2d(C),
    "frozen_batch_norm": lambda: tnn.BatchNorm2d(C, frozen=True),
    "sync_batch_norm": lambda: nn.SyncBatchNorm(C),
    "instance_norm": lambda: nn.InstanceNorm2d(C, affine=True),
    "group_norm": lambda: nn.GroupNorm(2, C),
    "layer_norm": lambda: tnn.LayerNorm(C, channels_first=True),
}
LAST = {"layer_norm": lambda: nn.LayerNorm(C), "rms_norm": lambda: nn.RMSNorm(C)}


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, last: bool = False) -> list[float]:
    losses = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(*((6, 4, 5) if last else (6, 3, 8, 8)), generator=draw)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


PAIRS = [(kind, to, False) for kind in FIRST for to in NORM_KINDS if to != kind]
PAIRS += [(kind, to, True) for kind in LAST for to in NORM_KINDS if to != kind and to != "sync_batch_norm"]


@pytest.mark.parametrize(("kind", "to", "last"), PAIRS)
def test_every_kind_becomes_every_other_and_back(kind, to, last):
    make = (LAST if last else FIRST)[kind]
    model, twin = model_of(make(), last), model_of(make(), last)
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, twin))
    assert run(model, optimizer, 2, last) == run(twin, other, 2, last)
    old, parameters = model[1], list(model.parameters())
    training = tt.attach(model, optimizer)
    if to == "frozen_batch_norm" and getattr(old, "running_var", None) is None:
        with pytest.raises(tt.NothingToDo, match="no running statistics to freeze"):
            training.apply(f"convert_norm(to={to!r})")
        return
    training.apply(f"convert_norm(to={to!r}, groups=4)")
    found = recognise(model[1])
    assert isinstance(found, Norm) and found.kind == to
    assert model[1].weight is old.weight
    assert "exp_avg" in optimizer.state[model[1].weight]
    if to != "rms_norm" and getattr(old, "bias", None) is not None:
        assert model[1].bias is old.bias
    training.undo()
    assert model[1] is old
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert run(model, optimizer, 3, last) == run(twin, other, 3, last)

    training.apply(f"convert_norm(to={to!r}, groups=4)")
    assert torch.isfinite(torch.tensor(run(model, optimizer, 3, last))).all()
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))
    training.undo()
    run(model, optimizer, 2, last)
    assert all("exp_avg" in optimizer.state[p] for p in parameters)


@pytest.mark.parametrize("kind", [*FIRST, *LAST])
def test_the_drop_in_of_the_same_kind_computes_the_same(kind):
    last = kind in LAST
    model = model_of((LAST if last else FIRST)[kind](), last)
    if recognise(model[1]).ours:
        return
    twin = copy.deepcopy(model)
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, twin))
    tt.attach(model, optimizer).apply("convert_norm(to='same')")
    assert type(model[1]).__module__.startswith("trimtab.nn.")
    torch.testing.assert_close(run(model, optimizer, 3, last), run(twin, other, 3, last))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_hooks_mode_dtype_and_requires_grad_go_over():
    model = model_of(nn.BatchNorm2d(C)).double()
    model[1].eval()
    model[1].weight.requires_grad_(False)
    calls = []
    before = model[1].register_forward_pre_hook(lambda module, inputs: calls.append(type(module).__name__))
    after = model[1].register_forward_hook(lambda module, inputs, output: calls.append("after"))
    backward = model[1].register_full_backward_hook(lambda module, given, got: calls.append("backward"))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(groups=2)")
    assert training.changes[0].details[0].endswith("running statistics dropped; 3 hooks kept")
    model(torch.randn(2, 3, 8, 8, dtype=torch.double)).sum().backward()
    assert calls == ["GroupNorm", "after", "backward"]
    assert not model[1].training and model[1].weight.dtype == torch.double and not model[1].weight.requires_grad
    before.remove()  # a handle that was taken before still works
    training.undo()
    after.remove()
    backward.remove()
    calls.clear()
    model(torch.randn(2, 3, 8, 8, dtype=torch.double))
    assert calls == []


def test_running_statistics_are_shared_between_batch_norms():
    model = model_of(nn.BatchNorm2d(C, momentum=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run(model, optimizer, 2)
    mean = model[1].running_mean
    training = tt.attach(model, optimizer).apply("convert_norm(to='sync_batch_norm')")
    assert model[1].running_mean is mean and model[1].momentum == 0.3
    run(model, optimizer, 2)
    training.undo()
    assert model[1].running_mean is mean and model[1].num_batches_tracked == 4


def test_rms_norm_drops_the_bias_and_undo_brings_it_back_with_its_state_and_place():
    model = model_of(nn.LayerNorm(C), True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run(model, optimizer, 2, True)
    bias, before = model[1].bias, [id(p) for p in optimizer.param_groups[0]["params"]]
    moments = optimizer.state[bias]
    training = tt.attach(model, optimizer).apply("convert_norm(to='rms_norm')")
    assert bias not in optimizer.state
    assert training.changes[0].details == ("1: LayerNorm(8) became RMSNorm; its bias left the model and the optimizer",)
    training.undo()
    assert model[1].bias is bias and optimizer.state[bias] is moments
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before


def test_a_norm_without_bias_or_gain_gets_none():
    for norm in (nn.LayerNorm(C, bias=False), nn.LayerNorm(C, elementwise_affine=False)):
        model = model_of(norm, True)
        count = len(list(model.parameters()))
        for to in ("group_norm", "batch_norm", "instance_norm", "rms_norm"):
            training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(f"convert_norm(to={to!r})")
            assert len(list(model.parameters())) == count
            run(model, training.optimizers[0], 1, True)
            training.undo()


def test_a_shared_norm_is_replaced_everywhere():
    norm = nn.BatchNorm2d(C)
    model = nn.Sequential(nn.Conv2d(3, C, 1), norm, nn.Sequential(nn.Conv2d(C, C, 1), norm))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(groups=2)")
    assert model[1] is model[2][1] and isinstance(model[1], nn.GroupNorm)
    training.undo()
    assert model[1] is model[2][1] is norm


def test_only_and_from_choose():
    model = nn.Sequential(nn.Linear(4, C), nn.BatchNorm1d(C), nn.Linear(C, C), nn.LayerNorm(C))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tt.attach(model, optimizer).apply("convert_norm(to='rms_norm', from_='layer_norm')")
    assert [type(model[i]).__name__ for i in (1, 3)] == ["BatchNorm1d", "RMSNorm"]
    tt.attach(model, optimizer).apply("convert_norm(to='group_norm', only='[12]')")
    assert [type(model[i]).__name__ for i in (1, 3)] == ["GroupNorm", "RMSNorm"]
    with pytest.raises(tt.NothingToDo, match="the model has no normalization under the name 'head"):
        tt.attach(model, optimizer).apply("convert_norm(only='head.*')")


# -- knowing a norm ------------------------------------------------------------------------------------------------------


class ScaledSum(nn.Module):  # a layer norm by what it does, whatever it is called
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma, self.beta, self.epsilon = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        return self.gamma * x / (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt() + self.beta


class ScaleNorm(nn.Module):  # merely called a norm
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / (x.norm(dim=-1, keepdim=True) + self.eps)


class OutsideRoot(ScaledSum):  # eps outside of the root: another function where inputs are small
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gamma * x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-2) + self.beta


class FrozenBatchNorm(nn.Module):  # as in torchvision and DETR: buffers only
    def __init__(self, size: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.5, "running_var": 2.0}.items():
            self.register_buffer(name, torch.full((size,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, b, m, v = (t.view(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var))
        return (x - m) * w / (v + self.eps).sqrt() + b


class BatchNormAct(nn.BatchNorm2d):  # as in timm
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_norms_are_known_by_what_they_compute():
    found = recognise(ScaledSum(C))
    assert isinstance(found, Norm) and (found.kind, found.layout, found.gain, found.shift) == (
        "layer_norm",
        "last",
        "gamma",
        "beta",
    )
    frozen = recognise(FrozenBatchNorm(C))
    assert isinstance(frozen, Norm) and (frozen.kind, frozen.layout) == ("frozen_batch_norm", "first")
    batch = recognise(type("Mine", (nn.BatchNorm2d,), {})(C))
    assert isinstance(batch, Norm) and batch.kind == "batch_norm"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (ScaleNorm(C), "its class, ScaleNorm, computes neither a batch, group, layer nor RMS norm"),
        (BatchNormAct(C), "its class, BatchNormAct, computes neither"),
        (nn.LocalResponseNorm(2), "neighbouring channels"),
        (nn.LazyBatchNorm2d(), "it is lazy"),
        (nn.BatchNorm2d(C, device="meta"), "meta device"),
        (tnn.AddLayerNorm(C), "AddLayerNorm has a meaning of its own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_norm_is_left_alone_with_a_reason(module, reason):
    found = recognise(module)
    assert isinstance(found, str) and reason in found


@pytest.mark.parametrize("module", [OutsideRoot(C), nn.Linear(C, 1), nn.PReLU(C), nn.Embedding(3, 1), nn.ReLU()])
def test_other_modules_are_passed_by(module):
    assert recognise(module) is None


def test_trying_a_module_changes_nothing():
    module = FrozenBatchNorm(C)
    module.register_forward_hook(lambda *_: pytest.fail("a hook was called"))
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    recognise(module)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_what_is_left_is_reported_beside_what_is_done():
    model = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C), nn.Conv2d(C, C, 1), BatchNormAct(C))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm")
    assert str(training.changes[0]) == (
        "1 norm made group_norm: 1; 1 left alone\n"
        "  1: BatchNorm2d(8) became GroupNorm with 4 groups; running statistics dropped\n"
        "  3: left alone: its class, BatchNormAct, computes neither a batch, group, layer nor RMS norm of one tensor"
    )


def test_a_gain_stored_less_one_is_corrected_and_comes_back_exactly():
    class Gemma(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.randn(C) * 0.1), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (1 + self.weight)

    model = model_of(Gemma(), True)
    x = torch.randn(2, 3, 5)
    before, expected = model[1].weight.detach().clone(), model(x)
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(to='same')")
    torch.testing.assert_close(model(x), expected)
    training.undo()
    assert torch.equal(model[1].weight, before)


def test_a_transformer_encoder_does_not_pass_the_new_norm_by():
    layer = nn.TransformerEncoderLayer(C, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2)
    x, padding = torch.randn(2, 4, C), torch.tensor([[False] * 4, [False, False, True, True]])
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(to='rms_norm')")
    expected = model(x, src_key_padding_mask=padding)
    model.eval()
    with torch.no_grad():  # where torch would take its fused path, which knows layer norms only
        torch.testing.assert_close(model(x, src_key_padding_mask=padding), expected)
    training.undo()
    assert model.use_nested_tensor and model.layers[0].activation_relu_or_gelu == 1


@pytest.mark.parametrize(
    ("features", "wanted", "least", "groups"),
    [(64, 32, 2, 32), (24, 32, 2, 12), (9, 32, 2, 3), (7, 32, 2, 1), (16, 32, 8, 2), (96, 32, 2, 32), (1, 4, 2, 1)],
)
def test_groups_divide_the_channels(features, wanted, least, groups):
    assert fitting_groups(features, wanted, least) == groups
