"""What every layer owes, run over the list in ``every.py``: arguments checked where they are given, evaluation that draws nothing,
gradients of batches and of samples, noise under vmap, layouts and half types."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import nn

import trimtab.nn as tn
import trimtab.nn.functional as tf
from tests.nn.every import FORMS, LAYERS, MODULES, OTHERS, Layer, output
from trimtab.nn.layouts import BatchNormLast, GroupNormLast, InstanceNormLast, RMSNormFirst
from trimtab.nn.ops import common

ALL = {**LAYERS, **FORMS}
NOISY = {name: layer for name, layer in ALL.items() if layer.noisy}
# torch's own recurrent layers, with masked weights: vmap has no rule for them (torch 2.13)
UNMAPPED = ("DropConnectGRU", "DropConnectLSTM", "DropConnectRNN")
every = pytest.mark.parametrize("layer", ALL.values(), ids=ALL)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(params=["kernels", "torch"])
def backend(request, monkeypatch):
    """With kernels also where torch would be quicker, and with torch's operations in their place, as on a GPU."""
    monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})
    if request.param == "torch":
        monkeypatch.setattr(common, "FORCED", "torch")
    return request.param


def test_the_list_is_complete():
    assert sorted([*LAYERS, *OTHERS, "Ensemble"]) == MODULES


# -- arguments -----------------------------------------------------------------------------------------------------------

NAN, NO_NUMBERS = math.nan, (None, "0.5", (0.5,), True)
PROBABILITY = (-0.1, 1.5, NAN, *NO_NUMBERS)
COUNT = (-1, 2.5, NAN, None, "2", (2,))
MOMENTUM = (-0.1, 1.5, NAN, "0.1", (2.0, 0.1), (0.1,), (0.1, 0.1, 0.1), (None, 0.1), [0.1, 0.1], True)
ACTIVATION = ("tanh", None, 3, ["relu"])
WRONG: dict[str, tuple] = {
    "p": PROBABILITY, "dropout": PROBABILITY, "drop_path": PROBABILITY, "label_smoothing": PROBABILITY, "p_cell": (-0.1, 1.0, NAN, "1"),
    "eps": (-1.0, NAN, math.inf, "1e-5", (1e-5,), [], True), "momentum": MOMENTUM, "num_features": COUNT, "num_channels": COUNT,
    "num_groups": (0, *COUNT), "ghost_batch_size": (0, *COUNT), "head_dim": (0, *COUNT), "size": (0, *COUNT), "samples": (0, *COUNT),
    "block_size": (0, *COUNT), "input_size": (0, *COUNT), "hidden_size": (0, *COUNT), "warmup": COUNT, "layer_scale": (-1, "1", None, NAN),
    "normalized_shape": (-1, 2.5, None, "9", (), (3, None), (3, -1), [2.5], True), "shape": (-1, 2.5, None, (3, None)),
    "momentum=None": (), "activation": ACTIVATION, "reduction": ("average", None, 1, -100), "ignore_index": (None, 0.5, "mean"),
    "weight": (3, "w", [1.0], torch.ones(2, 2)), "size_average": (-100, "mean"), "reduce": (1, "sum"), "generator": (0, "cpu", True),
    "alpha": (NAN, math.inf, *NO_NUMBERS), "beta": (NAN, math.inf, *NO_NUMBERS), "k": (NAN, *NO_NUMBERS), "scale": (0, -1, NAN, *NO_NUMBERS),
    "alpha_init": (0, -1, NAN, *NO_NUMBERS), "scale_init": (NAN, *NO_NUMBERS), "cap": (0, -1, NAN, math.inf, *NO_NUMBERS),
    "factor": (0, -1, NAN, math.inf, *NO_NUMBERS), "temperature": (0, 1.5, NAN, *NO_NUMBERS), "r_max": (0.5, NAN, math.inf, *NO_NUMBERS),
    "d_max": (-1, NAN, math.inf, *NO_NUMBERS), "r_steps": ((1,), (1, 2, 3), (2, 1), (-1, 2), 5, None, (0.5, 1)), "d_steps": ((1,), None),
    "stretch": ((0.1, 1.1), (-0.1,), (-0.1, 0.9), None, 1.0), "units": ((9,), (0.5,), ("a",), 9), "kind": ("soft", None, 1),
    "statistics": ("mean", None), "scaling": ("down", None, ["inverted"]), "count": ("some", None), "inference": ("mean", None),
    "variance": ("p", None), "convention": ("keras", None), "detach": ("all", None), "linear": (3, None), "block": (3, None),
}  # fmt: skip
FREE = {
    "p_cell": [None],
    "eps": {"RMSNorm": [None], "AddRMSNorm": [None], "QKNorm": []},
    "momentum": [None],
}  # what None may mean


def mistakes():
    for name in MODULES:
        if name == "Ensemble":
            continue
        make = LAYERS[name].make if name in LAYERS else OTHERS[name]
        parameters = set(inspect.signature(getattr(tn, name)).parameters)
        if "options" in parameters:  # keyword arguments of BatchNorm
            parameters |= set(inspect.signature(tn.BatchNorm2d).parameters)
        for parameter in sorted(parameters & set(WRONG)):
            for value in WRONG[parameter]:
                if not (name.startswith("Dropout") and parameter == "shape"):
                    yield name, make, parameter, value
        if "eps" in parameters and "RMSNorm" not in name:
            yield name, make, "eps", None
        if "momentum" in parameters and name == "PowerNorm":
            yield name, make, "momentum", None


def test_what_makes_no_sense_is_refused_where_it_is_given():
    passed = []
    for name, make, parameter, value in mistakes():
        try:
            make(**{parameter: value})
        except ValueError as error:
            if parameter not in str(error) or name[:8] not in str(error):
                passed.append(f"{name}({parameter}={value!r}) -> {error}")
        except Exception as error:
            passed.append(f"{name}({parameter}={value!r}) -> {type(error).__name__}: {error}")
        else:
            passed.append(f"{name}({parameter}={value!r})")
    assert not passed, "\n".join(passed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tn.LayerNorm(3, eps=-1.0),
            "LayerNorm(eps=-1.0): eps is added to the variance, inside the root, and must lie in [0, inf).",
        ),
        (
            lambda: tn.GroupNorm(1, 3, eps="a"),
            "GroupNorm(eps='a'): eps is added to the variance, inside the root, and must be a number in [0, inf).",
        ),
        (
            lambda: tn.BatchNorm1d(3, momentum=(0.1,)),
            "BatchNorm1d(momentum=(0.1,)): momentum is the share of the new value in running statistics. It must be a number in [0, 1], or "
            "a pair of them, one for each of the two, or None for the mean over all batches.",
        ),
        (
            lambda: tn.PowerNorm(3, momentum=1.5),
            "PowerNorm(momentum=1.5): momentum is the share of the new value in running statistics. It must be a number in [0, 1], or a "
            "pair of them, one for each of the two.",
        ),
        (
            lambda: tn.RMSNorm(2.5),
            "RMSNorm(2.5): normalized_shape must be the last dimension of the input, as RMSNorm(256), or the last dimensions, as "
            "RMSNorm((3, 4)): whole numbers, at least one of them, and none negative.",
        ),
        (
            lambda: tn.Dropout("0.5"),
            "Dropout(p='0.5'): p is the probability of dropping an entry and must be a number in [0, 1].",
        ),
        (
            lambda: tn.Ensemble(lambda: nn.Linear(2, 2), members=2.5),
            "Ensemble(members=2.5): members must be a whole number, 0 or more.",
        ),
        (
            lambda: tn.BatchNorm2d(None),
            "BatchNorm2d(num_features=None): num_features is the number of channels and must be a whole number, 0 or more.",
        ),
        (
            lambda: tn.Dropout(generator=3),
            "Dropout(generator=3): generator must be a torch.Generator, or None for torch's own: torch.Generator().manual_seed(0).",
        ),
        (
            lambda: tn.CrossEntropyLoss(None, -100),
            "CrossEntropyLoss(size_average=-100): size_average, as in torch, is a flag of older calls, of which reduction took the place. "
            "Arguments behind weight are best given by name: ignore_index=-100, reduction='mean'.",
        ),
        (
            lambda: tn.CrossEntropyLoss(reduction=-100),
            "CrossEntropyLoss(reduction=-100): reduction must be mean, sum or none.",
        ),
        (
            lambda: tn.CrossEntropyLoss([1.0, 2.0]),
            "CrossEntropyLoss(weight=...) got [1.0, 2.0]. It must be a tensor with one factor for each class.",
        ),
        (
            lambda: tf.batch_norm(torch.ones(3, 4), None, None, training=True, eps=0.0),
            "batch_norm(eps=0.0): while training eps must be positive, for a channel of one value has variance 0.",
        ),
    ],
)  # fmt: skip
def test_the_refusal_says_what_must_hold(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


# -- noise ---------------------------------------------------------------------------------------------------------------


@every
def test_evaluation_draws_nothing_and_says_the_same_twice(layer: Layer):
    module, x, state = layer.make().eval(), random(*layer.shape), torch.get_rng_state()
    first = output(module, x)
    assert torch.equal(first, output(module, x))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", [name for name in NOISY if name not in UNMAPPED])
def test_noise_under_vmap_is_as_torchs_dropout(name):
    layer = NOISY[name]
    module, x = layer.make(), random(*layer.shape)
    many = x.expand(3, *x.shape)
    for same in (True, False):
        torch.manual_seed(0)
        y = torch.func.vmap(lambda x: output(module, x), randomness="same" if same else "different")(many)
        assert torch.allclose(y[0], y[1], atol=1e-5) == same  # products of other shapes are rounded in another order
        assert y.shape[1:] == output(module, x).shape
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda x: output(module, x), randomness="error")(many)
    # the mask of a mapped row is one that a call by itself has too: of the same key
    torch.manual_seed(0)
    y = torch.func.vmap(lambda x: output(module, x), randomness="same")(many)[1]
    torch.manual_seed(0)
    torch.testing.assert_close(y, output(module, x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", [name for name in NOISY if name not in UNMAPPED])
def test_gradients_of_each_sample(name):
    """vmap of grad, each sample with the gradient that it has through the same noise by itself."""
    layer = NOISY[name]
    module, x = layer.make(), random(*layer.shape)
    many = torch.stack([x, 2 * x])
    state = {key: value.detach() for key, value in module.named_parameters()}

    def loss(parameters: dict, x: torch.Tensor) -> torch.Tensor:
        y = torch.func.functional_call(module, parameters, (x,))
        return (y[0] if isinstance(y, tuple) else y).square().sum()

    by_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0), randomness="same")
    torch.manual_seed(0)
    parameters, inputs = by_sample(state, many)
    for i, one in enumerate(many):
        torch.manual_seed(0)
        wanted, by_input = torch.func.grad(loss, argnums=(0, 1))(state, one)
        torch.testing.assert_close(inputs[i], by_input, rtol=1e-4, atol=1e-4)
        for key, value in wanted.items():
            torch.testing.assert_close(parameters[key][i], value, rtol=1e-4, atol=1e-4)
    by_sample = torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(None, 0), randomness="different")
    first, *others = by_sample(state, x.expand(6, *x.shape))
    assert any(not torch.allclose(first, other, atol=1e-5) for other in others), "noise of its own"


def test_functions_under_vmap():
    x = random(3, 4, 6)
    for function in (tf.dropout, tf.alpha_dropout, tf.gaussian_dropout, tf.drop_path, tf.hard_concrete):
        p = {} if function is tf.hard_concrete else {"p": 0.5}
        y = torch.func.vmap(lambda x, f=function, p=p: f(x, training=True, **p), randomness="different")(
            x.expand(4, *x.shape)
        )
        assert not torch.equal(y[0], y[1]), function


# -- batched and repeated derivatives --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own, of its cells
@pytest.mark.parametrize("name", [name for name in ALL if "Conv3d" not in name and "3d" not in name])
def test_batched_gradients(name, backend):
    """All rows of a Jacobian in one backward pass: those that come one by one."""
    layer = ALL[name]
    module, x = layer.make(), random(*layer.shape)[:3]

    def first(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return output(copy.deepcopy(module), x).flatten()[:7]

    found = torch.autograd.functional.jacobian(first, x, vectorize=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(first, x), rtol=1e-4, atol=1e-5)


NORMS = {
    "layer": lambda x, w: tf.layer_norm(x, x.shape[-1:], w, w),
    "rms": lambda x, w: tf.rms_norm(x, x.shape[-1:], w),
    "group": lambda x, w: tf.group_norm(x, 2, w, w),
    "batch": lambda x, w: tf.batch_norm(x, None, None, w, w, True, activation="silu", residual=x),
}


@pytest.mark.parametrize("name", NORMS)
def test_derivatives_where_one_input_depends_on_another(name, monkeypatch):
    """With create_graph=True the backward pass differentiates the composition: by each input alone, though x comes from w."""
    monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})

    def second(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        w = random(6, seed=1).to(dtype).requires_grad_()
        y = NORMS[name]((random(8, 6).to(dtype) * w).sin(), w)
        (first,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), w)[0]

    for found, wanted in zip(second(torch.float32), second(torch.float64), strict=True):
        # a dozen roundings of terms that are larger than their sum
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


# -- half types ------------------------------------------------------------------------------------------------------------

HALF = [torch.bfloat16, torch.float16]
AFFINE = {
    name: layer
    for name, layer in ALL.items()
    if "Norm" in name or "Renorm" in name
    if not layer.noisy and name not in ("AdaNorm", "DetachNorm", "LayerNormSimple", "LocalResponseNorm")
    if not name.startswith(("LayerNormGRU", "LayerNormLSTM"))
}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", AFFINE)
def test_gradients_of_float32_weights_have_its_digits(name, dtype, backend):
    """Beside a half input, as autocast makes it. Rounded to the type of the input they would be off by 2e-3 or 3e-4."""
    layer = AFFINE[name]
    module = layer.make()
    x, upstream = (random(*layer.shape, seed=seed).to(dtype) for seed in (0, 1))
    y = module(x.requires_grad_())
    found = torch.autograd.grad(y, [x, *module.parameters()], upstream)
    assert y.dtype is dtype and found[0].dtype is dtype
    exact, own = layer.make().double(), x.detach().double().requires_grad_()
    wanted = torch.autograd.grad(exact(own), [own, *exact.parameters()], upstream.double())
    rounded = torch.finfo(dtype).eps
    for one, other in zip(found, wanted, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error <= (1e-6 if one.dtype is torch.float32 else rounded), error


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", [name for name in ALL if "Norm" in name or "Renorm" in name])
def test_norms_in_half_types(name, dtype, backend):
    """Weights, statistics and input of one half type, in training and in evaluation."""
    layer = ALL[name]
    module, x = layer.make().to(dtype), random(*layer.shape).to(dtype).requires_grad_()
    exact = layer.make().double()
    exact.load_state_dict({key: value for key, value in module.state_dict().items()})
    for training in (True, False):
        torch.manual_seed(0)
        y = output(module.train(training), x)
        assert y.dtype is dtype
        assert all(
            g is not None and g.isfinite().all()
            for g in torch.autograd.grad(y.float().sum(), [x, *module.parameters()])
        )
        if not (layer.noisy and training):
            torch.manual_seed(0)
            wanted = output(exact.train(training), x.detach().double())
            scale = wanted.abs().max().item()
            # a few roundings to 8 (11) bits; recurrent layers round at each of 5 steps, of which each has a dozen operations
            steps = 20 if "LSTM" in name or "GRU" in name else 3
            torch.testing.assert_close(y.double(), wanted, rtol=0, atol=steps * torch.finfo(dtype).eps * scale)


# -- layouts ---------------------------------------------------------------------------------------------------------------


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The numbers of x in the ways in which tensors lie in memory."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    found = {
        "contiguous": x,
        "transposed": x.transpose(0, -1).contiguous().transpose(0, -1),
        "strided": torch.stack([x, x], -1)[..., 0],
        "slice": torch.cat([x, x], -1)[..., : x.shape[-1]],
    }
    if last:
        found["channels_last"] = x.contiguous(memory_format=last)
        found["slice of channels_last"] = torch.cat([x, x], 1).contiguous(memory_format=last)[:, : x.shape[1]]
    return found


def keeps(x: torch.Tensor, y: torch.Tensor) -> bool:
    return y.stride() == torch.empty_like(x).stride()  # as torch lays out what it computes entry by entry


@pytest.mark.parametrize(
    "name",
    [
        "Dropout", "Dropout(exact)", "Dropout(channel)", "Dropout(original)", "AlphaDropout", "GaussianDropout", "DropPath", "DropBlock",
        "LocalResponseNorm", "SoftCap", "DynamicTanh", "LayerNorm(channels_first)",
    ],
)  # fmt: skip
def test_the_layout_of_the_input_is_kept(name, backend):
    layer = ALL[name]
    shapes = [layer.shape] if len(layer.shape) > 2 else [layer.shape, (2, 4, 3, 9), (2, 3, 2, 3, 9)]
    for shape in shapes:
        for how, x in layouts(random(*shape)).items():
            module = layer.make()
            y = module(x.requires_grad_())
            assert keeps(x, y), how
            (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
            assert gradient.shape == x.shape


@pytest.mark.parametrize(
    "name",
    [
        "BatchNorm2d", "BatchNorm2d(dropout)", "GroupNorm", "GroupNorm(dropout)", "InstanceNorm2d", "BatchNorm3d", "RMSNorm", "RMSNorm(dropout)",
    ],
)  # fmt: skip
def test_channels_last_is_kept(name, backend):
    layer = ALL[name]
    shape = layer.shape if len(layer.shape) > 2 else (2, 4, 3, 9)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    for how, x in layouts(random(*shape)).items():
        for training in (True, False):
            y = layer.make().train(training)(x)
            assert y.is_contiguous(memory_format=last if "channels_last" in how else torch.contiguous_format), how


def test_features_elsewhere_keep_the_layout():
    for module, shape in (
        (BatchNormLast(6), (4, 5, 6)), (InstanceNormLast(6), (4, 5, 6)), (GroupNormLast(2, 6), (4, 5, 6)), (RMSNormFirst(6), (4, 6, 5, 5)),
    ):  # fmt: skip
        assert module(random(*shape)).is_contiguous(), module


def test_compiled_with_symbols_for_sizes():
    """The order of memory is found by comparisons, which a compiler can follow."""
    model = nn.Sequential(
        tn.Dropout(0.1), tn.GaussianDropout(0.1), tn.AlphaDropout(0.1), tn.BatchNorm2d(6, activation="relu"), tn.GroupNorm(2, 6),
        tn.LocalResponseNorm(3), tn.RMSNorm(5), tn.LayerNorm(6, channels_first=True),
    )  # fmt: skip
    for how in ("transposed", "slice of channels_last"):
        torch._dynamo.reset()
        x = layouts(random(4, 6, 5, 5))[how]
        y = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")(x)
        assert y.isfinite().all() and y.stride() == model(x).stride()


def test_one_mask_for_every_layout_in_memory_order():
    x = random(4, 6, 5, 5).abs() + 1
    for how, same in layouts(x).items():
        torch.manual_seed(0)
        found = tn.Dropout(0.5)(same)
        torch.manual_seed(0)
        order = common.memory_order(same)
        dense = same.contiguous() if order is None else same.permute(order).contiguous()
        wanted = tn.Dropout(0.5)(dense)
        assert torch.equal(found, wanted if order is None else wanted.permute(common.inverse(order))), how


# -- TorchScript -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)  # traces are out of favour with torch
@every
def test_a_model_with_it_can_be_traced(layer: Layer):
    if isinstance(layer.make(), nn.RNNBase):
        pytest.skip("torch's recurrent layers, and loops over time steps, are traced for one length of time")
    model = nn.Sequential(layer.make()).eval()
    x = random(*layer.shape)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(2 * x), model(2 * x))
    if layer.noisy:
        traced = torch.jit.trace(model.train(), x, check_trace=False)
        assert not torch.equal(
            torch.cat([traced(x) for _ in range(9)]), traced(x).repeat(9, *(1 for _ in x.shape[1:]))
        ), "drawn anew"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts():
    x = random(50, 6)
    for module in (tn.Dropout(0.5), tn.AlphaDropout(0.5)):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6), module))
        assert not torch.equal(scripted(x), scripted(x))
        assert torch.equal(scripted.eval()(x), scripted(x))
    for module in (
        tn.Dropout(shape="channel"),
        tn.Dropout(generator=torch.Generator()),
        tn.GaussianDropout(),
        tn.DropConnectLinear(6, 6),
    ):
        with pytest.raises(
            NotImplementedError,
            match=r"torch\.jit\.script cannot compile \w+, whose noise TorchScript has no words for\.",
        ):
            torch.jit.script(nn.Sequential(nn.Linear(6, 6), module))
