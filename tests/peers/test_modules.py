"""Our layers and functions under what torch tests of its own: ``module_db`` and ``op_db`` of ``torch.testing._internal``, every
sample input and every wrong one, with ours in the place of torch's.

Ours must do as torch's: the same layout, type and state, an error where there is one, and numbers that are no further from
those of float64 than torch's. What differs on purpose stands in :data:`DIFFERENCES`, and for users in ``trimtab.nn``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import trimtab.nn as tn
import trimtab.nn.functional as tf
from tests.peers import torchs
from trimtab.nn.ops import common

# What is torch's, and ours with what makes it the same.
NAMES = (
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "CrossEntropyLoss", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LayerNorm", "LocalResponseNorm", "RMSNorm",
)  # fmt: skip
OURS: dict[str, tuple[str, Callable[..., nn.Module]]] = {name: (name, getattr(tn, name)) for name in NAMES} | {
    f"{ours}(p=0)": (theirs, functools.partial(getattr(tn, ours), p=0.0))
    for ours, theirs in {
        "DropConnectLinear": "Linear", "DropConnectConv1d": "Conv1d", "DropConnectConv2d": "Conv2d", "DropConnectConv3d": "Conv3d",
        "DropConnectLSTM": "LSTM", "DropConnectGRU": "GRU",
    }.items()
} | {"SyncBatchNorm": ("BatchNorm2d", tn.SyncBatchNorm)}  # fmt: skip
FUNCTIONS = (
    "alpha_dropout", "batch_norm", "cross_entropy", "dropout", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
)  # fmt: skip
pytestmark = [  # torch's own, and once in a process
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Difference(NamedTuple):
    """A difference on purpose: of which parts, in which check, where (a piece of what the check says), and why."""

    parts: str
    check: str
    where: str
    reason: str


DIFFERENCES = (
    Difference("InstanceNorm, instance_norm", "layout", "channels_last", "it keeps channels_last, which torch's loses"),
    Difference("LocalResponseNorm, local_response_norm", "raises", "view size", "it takes the layouts that torch's cannot"),
    Difference("InstanceNorm", "raises", "", "it checks the number of channels without affine too, of which torch's warns"),
    Difference("batch_norm", "refused", "2 dimensions or more", "it wants (N, C, ...), where torch's takes an empty tensor of one dimension"),
    Difference("LocalResponseNorm, local_response_norm", "raises", "not implemented for", "it takes half types, for which torch's has no pooling"),
    Difference("DropConnect", "repr", "", "it shows its mask"),
)  # fmt: skip


def on_purpose(part: str, check: str, where: str) -> bool:
    return any(
        any(part.startswith(name) for name in known.parts.split(", ")) and known.check == check and known.where in where
        for known in DIFFERENCES
    )


class Checked:
    """Gathers what differs of one part, so that a test names all of it."""

    def __init__(self, part: str) -> None:
        self.part, self.found = part, dict[str, None]()

    def differs(self, check: str, where: str) -> None:
        if not on_purpose(self.part, check, where):
            self.found[f"{check}: {where}"] = None

    def done(self) -> None:
        assert not self.found, f"{self.part} is not as torch's:\n  " + "\n  ".join(self.found)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for entry in value for tensor in tensors(entry)] if isinstance(value, list | tuple) else []


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The value with its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        return value._replace(data=change(value.data))
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, change) for entry in value)
    return {name: mapped(entry, change) for name, entry in value.items()} if isinstance(value, dict) else value


def double(value: Any) -> Any:
    return mapped(value, lambda t: t.double() if t.is_floating_point() else t.clone())


def layouts(x: Any) -> Iterator[tuple[str, Any]]:
    """The numbers in the ways in which tensors lie in memory."""
    yield "contiguous", x
    if not isinstance(x, torch.Tensor) or x.dim() < 2 or not x.numel() or not x.is_floating_point():
        return
    yield "transposed", x.transpose(0, -1).contiguous().transpose(0, -1)
    yield "strided", torch.stack([x, x], -1)[..., 0]
    yield "slice", torch.cat([x, x], -1)[..., : x.shape[-1]]
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last:
        yield "channels_last", x.contiguous(memory_format=last)
        yield "slice of channels_last", torch.cat([x, x], 1).contiguous(memory_format=last)[:, : x.shape[1]]


def strides(x: torch.Tensor) -> list[int]:
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1] if x.numel() else []


def same(checked: Checked, what: str, ours: Any, theirs: Any, exact: Any, laid_out: bool = True) -> None:
    """Results are laid out alike, of one type, and ours no further from the exact ones than torch's are, or than some roundings."""
    for a, b, c in zip(tensors(ours), tensors(theirs), tensors(exact), strict=True):
        if a.dtype is not b.dtype or a.shape != b.shape:
            checked.differs("form", f"{what}: {a.dtype} {tuple(a.shape)}, torch {b.dtype} {tuple(b.shape)}")
            continue
        if laid_out and strides(a) != strides(b):
            checked.differs("layout", f"{what}: strides {a.stride()} of {tuple(a.shape)}, torch {b.stride()}")
        if a.numel() == 0 or not a.is_floating_point():
            if not torch.equal(a, b):
                checked.differs("numbers", what)
            continue
        scale = max(c[c.isfinite()].abs().max().item() if c.isfinite().any() else 0.0, 1e-3)
        error, allowed = (
            (t.double() - c)[c.isfinite()].abs().max().item() if c.isfinite().any() else 0.0 for t in (a, b)
        )
        if error > max(2 * allowed, 16 * torch.finfo(a.dtype).eps * scale) or not torch.equal(
            a.isfinite(), b.isfinite()
        ):
            checked.differs(
                "numbers", f"{what}: off by {error / scale:.1e} of the largest entry, torch by {allowed / scale:.1e}"
            )


def gradients(results: Any, of: list[torch.Tensor]) -> list[torch.Tensor]:
    """By all of these, with the same upstream gradients for ours, torch's and the exact results: of 8 bits."""
    generator, pairs = torch.Generator().manual_seed(0), []
    for result in tensors(results):
        upstream = torch.randn(result.shape, generator=generator).bfloat16()
        if result.requires_grad:
            pairs.append((result, upstream.to(result.dtype)))
    found = torch.autograd.grad([r for r, _ in pairs], of, [u for _, u in pairs], allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, of, strict=True)]


def leaves(value: Any) -> Any:
    return mapped(
        value, lambda t: t.detach().clone(memory_format=torch.preserve_format).requires_grad_(t.is_floating_point())
    )


def run(
    call: Callable[..., Any], args: tuple, kwargs: dict, weights: list[torch.Tensor]
) -> tuple[Any, list[torch.Tensor]]:
    """Result and gradients."""
    args, kwargs = leaves(args), leaves(kwargs)
    result = call(*args, **kwargs)
    of = [t for t in tensors([args, kwargs]) if t.is_floating_point()] + weights
    return result, gradients(result, of) if any(r.requires_grad for r in tensors(result)) else []


def compared(
    checked: Checked,
    what: str,
    ours: Callable,
    theirs: Callable,
    exact: Callable,
    args: tuple,
    kwargs: dict,
    weights: Any,
) -> bool:
    """One call of each: results, gradients, or an error of both. Whether both gave a result."""
    try:
        wanted = run(theirs, args, kwargs, weights(theirs))
    except Exception as error:
        try:
            run(ours, args, kwargs, weights(ours))
        except Exception:
            return False
        checked.differs("raises", f"{what}: torch raises {error}, ours does not")
        return False
    try:
        found = run(ours, args, kwargs, weights(ours))
    except Exception as error:
        checked.differs("refused", f"{what}: {type(error).__name__}: {error}")
        return False
    best = run(exact, double(args), double(kwargs), weights(exact))
    same(checked, what, found[0], wanted[0], best[0])
    same(checked, f"gradients, {what}", found[1], wanted[1], best[1], laid_out=False)
    return True


@pytest.fixture(params=["as it is", "kernels", "torch"])
def backend(request, monkeypatch):
    """As users get it; with kernels also where torch would be quicker; with torch's operations in their place, as on a GPU."""
    if request.param == "kernels":
        monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})
    if request.param == "torch":
        monkeypatch.setattr(common, "FORCED", "torch")


# -- modules -----------------------------------------------------------------------------------------------------------------


def info_of(name: str) -> Any:
    (info,) = [info for info in torchs("common_modules").module_db if info.module_cls is getattr(nn, name)]
    return info


def inputs_of(info: Any, dtype: torch.dtype, training: bool = True) -> list[Any]:
    torch.manual_seed(0)
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)


def pair(checked: Checked, part: str, given: Any) -> tuple[Any, Any] | None:
    """Ours and torch's with the same arguments and the same lively parameters."""
    theirs = getattr(nn, OURS[part][0])(*given.args, **given.kwargs)
    try:
        ours = OURS[part][1](*given.args, **given.kwargs)
    except Exception as error:
        return checked.differs("refused", f"{type(error).__name__}: {error}")  # type: ignore[func-returns-value]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.6)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def called(given: Any) -> tuple[tuple, dict]:
    """What a module is called with, the input by position."""
    args, kwargs = given.forward_input.args, dict(given.forward_input.kwargs)
    return (args, kwargs) if args else ((kwargs.pop("input"),), kwargs)


def weights_of(module: nn.Module) -> list[torch.Tensor]:
    return list(module.parameters())


@pytest.mark.peers
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", OURS)
def test_module(part, dtype, backend):
    modules_as_torchs(part, dtype)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("part", [name for name in NAMES if "Norm" in name])
def test_module_with_float32_weights(part, dtype, backend):
    modules_as_torchs(part, dtype, mixed=True)


@pytest.mark.parametrize("part", NAMES)
def test_module_in_short(part):
    modules_as_torchs(part, torch.float32)


def modules_as_torchs(part: str, dtype: torch.dtype, mixed: bool = False) -> None:
    """Every input of torch's database, in every layout, in training and evaluation: outputs, gradients, running statistics."""
    checked, info = Checked(part), info_of(OURS[part][0])
    for training in (True, False):
        for number, given in enumerate(inputs_of(info, dtype, training)):
            made = pair(checked, part, given.constructor_input)
            if made is None or given.forward_input is None:
                continue
            made = tuple(module.train(training) if mixed else module.train(training).to(dtype) for module in made)
            (first, *args), kwargs = called(given)
            for layout, x in layouts(first):
                ours, theirs = copy.deepcopy(made)
                exact = copy.deepcopy(theirs).double()
                what = f"{layout}, {'training' if training else 'evaluation'}, input {number} {given.desc}"
                if compared(checked, what, ours, theirs, exact, (x, *args), kwargs, weights_of):
                    same(checked, f"state, {what}", list(ours.buffers()), list(theirs.buffers()), list(exact.buffers()))
    checked.done()


@pytest.mark.parametrize(
    "part", [*NAMES, *(pytest.param(part, marks=pytest.mark.peers) for part in OURS if part not in NAMES)]
)
def test_module_is_made_saved_and_shown_as_torchs(part):
    checked, info = Checked(part), info_of(OURS[part][0])
    for given in inputs_of(info, torch.float32):
        made = pair(checked, part, given.constructor_input)
        if made is None:
            continue
        ours, theirs = made
        if not repr(ours).split("(", 1)[1].startswith(repr(theirs).split("(", 1)[1][:-1]):
            checked.differs("repr", f"{ours}, torch {theirs}")
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        if "device" in inspect.signature(type(theirs)).parameters:
            for place in ({"device": "meta", "dtype": torch.float64}, {"dtype": torch.bfloat16}):
                for a, b in zip(
                    *(
                        (*m.named_parameters(), *m.named_buffers())
                        for m in (type(theirs)(*args, **kwargs, **place), OURS[part][1](*args, **kwargs, **place))
                    ),
                    strict=True,
                ):
                    if (a[0], a[1].dtype, a[1].device, a[1].shape) != (b[0], b[1].dtype, b[1].device, b[1].shape):
                        checked.differs("made", f"{place}: {b[0]}, torch {a[0]}")
            with torch.device("meta"):
                if any(t.device.type != "meta" for t in OURS[part][1](*args, **kwargs).state_dict().values()):
                    checked.differs("made", "torch.device('meta')")
        if given.forward_input is None:
            continue
        moved = ours.to(torch.float64).to_empty(device="cpu")
        moved.load_state_dict(theirs.double().state_dict())
        for twin in (copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))):
            forward = double(given.forward_input.args), double(given.forward_input.kwargs)
            for a, b in zip(*(tensors(m.eval()(*forward[0], **forward[1])) for m in (twin, moved)), strict=True):
                if not torch.equal(a.nan_to_num(), b.nan_to_num()):
                    checked.differs("copies", "numbers")
    if not info.train_and_eval_differ and not isinstance(ours, nn.RNNBase) and not part.startswith("DropConnect"):
        del ours.training  # torch's way to see that a module does not ask for it
        ours(*forward[0], **forward[1])
    checked.done()


@pytest.mark.peers
@pytest.mark.parametrize("part", OURS)
def test_derivatives(part):
    """By differences, first and second, in float64; and with a batch of gradients at once."""
    checked, info = Checked(part), info_of(OURS[part][0])
    for training in (True, False):
        for given in inputs_of(info, torch.float64, training)[:8]:
            made = pair(checked, part, given.constructor_input)
            if made is None or given.forward_input is None or not isinstance(called(given)[0][0], torch.Tensor):
                continue
            (x, *args), kwargs = called(given)
            module = made[0].double().train(training)
            names, weights = zip(*module.named_parameters(), strict=True) if weights_of(module) else ((), ())
            state = {name: buffer.clone() for name, buffer in module.named_buffers()}

            def call(x, *weights, module=module, names=names, state=state, args=args, kwargs=kwargs):
                own = {
                    name: buffer.clone() for name, buffer in state.items()
                }  # running statistics move with every call
                result = torch.func.functional_call(
                    module, {**own, **dict(zip(names, weights, strict=True))}, (x, *args), kwargs
                )
                return tuple(t for t in tensors(result) if t.is_floating_point())

            inputs = (x.detach().requires_grad_(), *(w.detach().requires_grad_() for w in weights))
            assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True, fast_mode=True)
            assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    checked.done()


def test_wrong_inputs_of_modules_are_refused():
    seen = 0
    for part in NAMES:
        info = info_of(part)
        for training in (True, False):
            given = (info, "cpu", torch.float32, False, training)
            for wrong in info.module_error_inputs_func(*given) if info.module_error_inputs_func else ():
                made, called = wrong.module_error_input.constructor_input, wrong.module_error_input.forward_input
                with pytest.raises((wrong.error_type, ValueError)):
                    OURS[part][1](*made.args, **made.kwargs)(*called.args, **called.kwargs)
                seen += 1
    assert seen > 10


def test_no_module_of_the_database_is_forgotten():
    known = {info.module_cls.__name__ for info in torchs("common_modules").module_db}
    assert sorted(known & set(tn.__all__)) == sorted(NAMES)


# -- functions ---------------------------------------------------------------------------------------------------------------


def op_of(name: str) -> Any:
    return next(op for op in torchs("common_methods_invocations").op_db if op.name == f"nn.functional.{name}")


@pytest.mark.peers
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "backend", ["as it is", "torch"], indirect=True
)  # kernels are not for rows of one entry, as there are here
def test_function(name, dtype, backend):
    functions_as_torchs(name, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_in_short(name):
    functions_as_torchs(name, torch.float32)


def functions_as_torchs(name: str, dtype: torch.dtype) -> None:
    checked = Checked(name)
    ours, theirs = getattr(tf, name), getattr(nn.functional, name)
    for number, sample in enumerate(op_of(name).sample_inputs("cpu", dtype, requires_grad=False)):
        for layout, x in layouts(sample.input):
            what = f"{layout} {tuple(x.shape)}, sample {number} {sample.kwargs}"
            args, kwargs = (x, *sample.args), sample.kwargs
            if "dropout" in name:  # ours draws other masks
                try:
                    a, b = (function(*args, **kwargs) for function in (ours, theirs))
                    same(
                        checked,
                        what,
                        [a.new_zeros(()), *([a] if not kwargs.get("training", True) else [])],
                        [b.new_zeros(()), *([b] if not kwargs.get("training", True) else [])],
                        [torch.zeros(()).double(), *([b.double()] if not kwargs.get("training", True) else [])],
                    )
                    if strides(a) != strides(b) or a.dtype is not b.dtype:
                        checked.differs("layout", what)
                except Exception as error:
                    checked.differs("refused", f"{what}: {error}")
                continue
            calls: list[Any] = [ours, theirs, theirs]
            if name in ("batch_norm", "instance_norm"):  # whose statistics change in place, and have no gradients
                given = inspect.signature(theirs).bind(*args, **kwargs).arguments
                running = [given.pop(key, None) for key in ("running_mean", "running_var")]
                args, kwargs = (given.pop("input"),), given
                calls = [
                    functools.partial(function, running_mean=mean, running_var=variance)
                    for function, (mean, variance) in (
                        (ours, mapped(running, torch.clone)),
                        (theirs, mapped(running, torch.clone)),
                        (theirs, double(running)),
                    )
                ]
            if compared(checked, what, *calls, args, kwargs, lambda _: []) and isinstance(calls[0], functools.partial):
                same(checked, f"statistics, {what}", *(list(call.keywords.values()) for call in calls))
    checked.done()


def test_wrong_inputs_of_functions_are_refused():
    seen = 0
    for name in FUNCTIONS:
        for wrong in op_of(name).error_inputs("cpu") if op_of(name).error_inputs_func else ():
            sample = wrong.sample_input
            with pytest.raises((wrong.error_type, ValueError)):
                getattr(tf, name)(sample.input, *sample.args, **sample.kwargs)
            seen += 1
    assert seen > 4
