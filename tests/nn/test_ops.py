"""The ops themselves: torch's own checks of them, their accuracy beside torch's, and what they keep for the backward pass."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

import trimtab.nn as tn
import trimtab.nn.functional as TF
from trimtab.nn import ops
from trimtab.nn.ops import common


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape).requires_grad_()


def arguments() -> dict[str, list[tuple]]:
    torch.manual_seed(0)
    x, row, key = (3, 4, 5, 5), (6, 9), ops.draw_key()
    return {
        "channel_norm": [
            (leaf(*x), leaf(4), leaf(4), leaf(*x), key, None, 1e-5, "silu", 0.3),
            (leaf(*x), None, None, None, None, torch.rand(3, 4, dtype=torch.float64) + 0.5, 1e-5, "relu", 0.0),
            (leaf(*x), leaf(4), leaf(4), leaf(*x), None, None, 1e-5, "none", 0.0),
        ],
        "row_norm": [
            (leaf(*row), leaf(9), leaf(9), leaf(*row), leaf(*row), key, key, 1e-5, True, "gelu", 0.2, 0.3, False),
            (leaf(*row), leaf(9), None, leaf(*row), None, key, None, 1e-5, False, "none", 0.2, 0.0, True),
            (leaf(*row), None, None, None, None, None, None, 1e-5, True, "none", 0.0, 0.0, False),
        ],
        "group_norm": [(leaf(*x), leaf(4), leaf(4), leaf(*x), key, 2, 1e-5, "gelu_tanh", 0.3)],
        "response_norm": [(leaf(*x), 3, 0.1, 0.75, 1.0)],
        "dropout": [(leaf(*x), key, 0.3)],
        "cross_entropy": [
            (leaf(6, 9), torch.tensor([0, 8, -100, 3, 3, 1]), torch.rand(9), 0.1, -100),
            (leaf(6, 9), torch.arange(6), None, 0.0, -100),
        ],
    }


@pytest.mark.parametrize("name", arguments())
def test_torch_finds_nothing_wrong_with_the_op(name):
    for given in arguments()[name]:
        torch.library.opcheck(getattr(torch.ops.trimtab, name).default, given)


@pytest.mark.parametrize("name", arguments())
def test_vmap_of_the_op(name):
    given = arguments()[name][0]
    op = getattr(torch.ops.trimtab, name).default
    many = torch.stack([given[0].detach(), given[0].detach() * 2])
    mapped = torch.func.vmap(lambda x: op(x, *given[1:]))(many)
    alone = [op(x, *given[1:]) for x in many]
    for i, one in enumerate(alone):
        found = mapped[i] if isinstance(mapped, torch.Tensor) else [part[i] for part in mapped]
        torch.testing.assert_close(found, one if isinstance(one, torch.Tensor) else list(one))


@pytest.mark.parametrize("make", [torch.channels_last, torch.contiguous_format], ids=str)
def test_compiled_by_inductor(make):
    torch._dynamo.reset()
    model = torch.nn.Sequential(
        tn.BatchNorm2d(4, activation="relu", dropout=0.2), tn.GroupNorm(2, 4, activation="gelu")
    )
    x = torch.randn(3, 4, 5, 5).contiguous(memory_format=make).requires_grad_()
    compiled = torch.compile(model, fullgraph=True)
    y = compiled(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all() and gradient.isfinite().all() and y.is_contiguous(memory_format=make)
    torch.testing.assert_close(torch.compile(model.eval(), fullgraph=True)(x), model(x))


# -- accuracy: error against float64, beside torch's -----------------------------------------------------------------------


def errors(function, x, weights, upstream) -> list[float]:
    """Largest error of output, and of the gradients by input and weights, as a share of the largest entry."""

    def run(dtype):
        inputs = [t.detach().to(dtype if dtype else t.dtype).requires_grad_() for t in (x, *weights)]
        y = function(*inputs)
        return [y, *torch.autograd.grad(y, inputs, upstream.to(y.dtype))]

    return [
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(run(None), run(torch.float64), strict=True)
    ]


CASES = {
    "batch": (lambda f: lambda x, w, b: f.batch_norm(x, None, None, w, b, True), (32, 64, 28, 28), 64),
    "batch, channels_last": (lambda f: lambda x, w, b: f.batch_norm(x, None, None, w, b, True), (32, 64, 28, 28), 64),
    "layer": (lambda f: lambda x, w, b: f.layer_norm(x, (768,), w, b), (4096, 768), 768),
    "group": (lambda f: lambda x, w, b: f.group_norm(x, 8, w, b), (32, 64, 28, 28), 64),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shift", [0, 500], ids=["", "mean 500"])
def test_no_less_accurate_than_torch(name, shift):
    make, shape, width = CASES[name]
    torch.manual_seed(0)
    x, upstream = torch.randn(shape) + shift, torch.randn(shape)
    if "last" in name:
        x, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x, upstream))
    weights = torch.rand(width) + 0.5, torch.randn(width)
    assert ops.backend_of(x) == "cpu" and not ops.torch_is_better(name.split(",")[0], x)
    for ours, theirs in zip(errors(make(TF), x, weights, upstream), errors(make(F), x, weights, upstream), strict=True):
        assert ours <= max(theirs, 5e-7)  # a few roundings; below that, who is nearer is luck


def test_layer_norm_sums_gradients_of_bfloat16_in_float32():
    torch.manual_seed(0)
    x, upstream = torch.randn(8192, 768).bfloat16(), torch.randn(8192, 768).bfloat16()
    weights = torch.rand(768) + 0.5, torch.randn(768)
    function = CASES["layer"][0]
    _, _, by_weight, by_bias = errors(function(TF), x, weights, upstream)
    assert max(by_weight, by_bias) < 1e-5  # the issue of torch's kernel, which is off by a tenth
    bf16 = tuple(t.bfloat16() for t in weights)
    assert max(errors(function(TF), x, bf16, upstream)[2:]) < 2.0**-8  # one rounding to bfloat16


# -- nothing to do --------------------------------------------------------------------------------------------------------

EMPTY = {
    "BatchNorm1d": ((4,), [(0, 4, 5), (2, 4, 0)]),
    "LayerNorm": ((5,), [(0, 5), (2, 0, 5)]),
    "RMSNorm": ((5,), [(0, 5), (2, 0, 5)]),
    "GroupNorm": ((2, 4), [(0, 4, 5), (2, 4, 0)]),
    "InstanceNorm1d": ((4,), [(0, 4, 5), (2, 4, 0)]),
    "LocalResponseNorm": ((3,), [(0, 4, 5), (2, 4, 0, 3), (2, 0, 5)]),
    "Dropout": ((0.5,), [(0, 4), (2, 0)]),
    "CrossEntropyLoss": ((), [(0, 4)]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_of_an_empty_tensor_a_layer_makes_what_torch_makes(name):
    given, shapes = EMPTY[name]
    for shape, dtype, training in itertools.product(shapes, (torch.float32, torch.bfloat16), (True, False)):
        results = []
        for room in (torch.nn, tn):
            layer = getattr(room, name)(*given).to(dtype).train(training)
            x = torch.empty(shape, dtype=dtype).requires_grad_()
            try:
                y = layer(x, torch.empty(shape[0], dtype=torch.long)) if name == "CrossEntropyLoss" else layer(x)
                y.sum().backward()
                results.append(repr([t.tolist() for t in (y, x.grad, *(p.grad for p in layer.parameters()))]))
            except ValueError:
                results.append(ValueError)
        assert results[0] == results[1], (shape, dtype, training)


# -- memory ---------------------------------------------------------------------------------------------------------------


def kept(call, *inputs) -> int:
    """Bytes saved for the backward pass beyond the inputs."""
    own, found = {t.data_ptr() for t in inputs}, {}

    def pack(t):
        if t.data_ptr() not in own:
            found[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(*inputs)
    return sum(found.values())


def test_what_is_kept_for_the_backward_pass():
    x, r = leaf(16, 32, 16, 16), leaf(16, 32, 16, 16)
    assert (
        kept(lambda x, r: TF.batch_norm(x, None, None, training=True, residual=r, activation="gelu", dropout=0.1), x, r)
        < 1000
    )
    rows, s = leaf(1024, 512), leaf(1024, 512)
    statistics = 2 * 4 * 1024
    assert kept(lambda x: TF.layer_norm(x, (512,), activation="relu"), rows) == statistics
    assert kept(lambda x: TF.rms_norm(x, (512,)), rows) == statistics // 2
    post = tn.AddLayerNorm(512, elementwise_affine=False, dropout=0.1)
    assert kept(post, rows, s) == statistics + 8  # and the seed
    pre = tn.AddLayerNorm(512, elementwise_affine=False, dropout=0.1, return_sum=True)
    assert kept(pre, rows, s) == statistics + 8 + rows.numel() * 4  # the sum, which is the next residual anyway


def test_cross_entropy_keeps_no_copy_of_the_logits():
    x, target = leaf(512, 100), torch.randint(100, (512,))
    # the statistic of each row, the weights of rows, the targets (which are an input, but not of floats)
    assert kept(lambda x: TF.cross_entropy(x, target, label_smoothing=0.1), x) <= 512 * (4 + 4 + 8) + 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 1000), (33, 517), (5, 9001), (2048, 10)], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_as_accurate_as_torch(shape, smoothing, weighted, dtype):
    torch.manual_seed(0)
    x, target = (torch.randn(shape) * 3).to(dtype), torch.randint(shape[1], shape[:1])
    target[1] = -100
    weight = torch.rand(shape[1]) + 0.1 if weighted else None
    assert not ops.torch_is_better("cross_entropy", x)

    def loss(function):
        def call(x, target=target):
            w = weight if weight is None or function is TF else weight.to(x.dtype)
            w = w if x.dtype != torch.float64 or weight is None else weight.double()
            return function.cross_entropy(x, target, w, label_smoothing=smoothing)

        return call

    upstream = torch.tensor(1.0)
    # log-sum-exp is kept as one float32: its rounding is in every exponential of the row
    rounding = {torch.float32: 6e-7, torch.bfloat16: 2.0**-8}[dtype]
    for ours, theirs in zip(errors(loss(TF), x, (), upstream), errors(loss(F), x, (), upstream), strict=True):
        assert ours <= max(theirs, rounding)


@pytest.mark.parametrize("classes", [100, 5000])
def test_cross_entropy_of_infinite_logits(classes):
    x = torch.randn(200, classes)
    x[:, : classes - 3] = -torch.inf  # masked, the first pieces of long rows whole
    x[1] = -torch.inf
    x[2, 5], x[3, 5] = torch.nan, torch.inf
    target = torch.full((200,), classes - 1)
    target[4] = 0
    for smoothing in (0.0, 0.1):
        given = dict(reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(
            TF.cross_entropy(x, target, **given),
            F.cross_entropy(x, target, **given),
            equal_nan=True,
            rtol=1e-5,
            atol=1e-5,
        )


def test_cross_entropy_refuses_targets_that_are_no_classes():
    with pytest.raises(
        IndexError, match=r"target 100 is out of bounds: .* must lie in 0\.\.99, or be ignore_index=-100"
    ):
        TF.cross_entropy(torch.randn(400, 100), torch.full((400,), 100))


def test_a_constant_row_without_eps():
    x = torch.full((3, 40), 7.0, requires_grad=True)
    y = tn.LayerNorm(40, eps=0.0)(x)
    assert torch.equal(y, torch.zeros(3, 40))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.zeros(3, 40))


def test_kernels_can_be_turned_off(monkeypatch):
    x = leaf(600, 600)
    assert "_Function" in str(TF.layer_norm(x, (600,)).grad_fn)
    monkeypatch.setattr(common, "FORCED", "torch")
    assert "NativeLayerNorm" in str(TF.layer_norm(x, (600,)).grad_fn)


@pytest.mark.parametrize(
    "layer", [tn.LayerNorm(4), tn.RMSNorm(4), tn.GroupNorm(2, 4), tn.BatchNorm1d(4), tn.BatchRenorm1d(4)]
)
def test_whole_numbers_are_refused_where_nothing_would_be_left_of_the_result(layer):
    with pytest.raises(ValueError, match=r"floating-point numbers, and got an input of type torch\.int64"):
        layer(torch.arange(8).view(2, 4))
