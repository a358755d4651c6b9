"""What every norm owes, run over the list in ``norms.py``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from tests.nn import norms
from tests.nn.norms import Norm, lively
from tests.nn.norms_batch import NORMS_BATCH
from tests.nn.norms_rows import NORMS_ROWS
from trimtab._kernels import why_no_kernels
from trimtab.nn import ops
from trimtab.nn.ops import common

NORMS = (*norms.NORMS, *NORMS_BATCH, *NORMS_ROWS)
ACTIVATIONS = {
    "none": lambda z: z, "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"), "silu": F.silu,
}  # fmt: skip
# A float32 result is sums of up to a few thousand terms, a division and a root: some ten roundings of 6e-8, relative to the
# largest entry. A bfloat16 result is rounded once at the end (2^-9 = 2e-3); its gradients come from inputs so rounded, and are
# rounded again.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3}


def over(test: str, of: Callable[[Norm], object] = lambda norm: True) -> pytest.MarkDecorator:
    """All norms of a sort, minus those that say why this test does not apply to them."""
    marked = [
        pytest.param(norm, id=norm.name, marks=[pytest.mark.skip(reason=norm.skip[test])] if test in norm.skip else [])
        for norm in NORMS
        if of(norm)
    ]
    return pytest.mark.parametrize("norm", marked)


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, factor: float = 1) -> None:
    error = (found.double() - wanted.double()).abs().max()
    scale = max(wanted.double().abs().max().item(), 1e-3)
    assert error <= factor * TOLERANCE[dtype] * scale, f"off by {error / scale:.1e} of the largest entry"


def gradients(output: torch.Tensor, upstream: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(output, of, upstream.to(output.dtype))


def exact(norm: Norm, module: torch.nn.Module, x: torch.Tensor, residual: torch.Tensor | None, activation: str):
    """Output and gradients by the formula in float64, from the very numbers that the module gets."""
    module = copy.deepcopy(module).double()
    x = x.detach().double().requires_grad_()
    inputs = [x]
    z = norm.reference(module, x)
    if residual is not None:
        inputs.append(residual.detach().double().requires_grad_())
        z = z + inputs[1]
    y = ACTIVATIONS[activation](z)
    return y, gradients(y, random(x.shape, 3), *inputs, *module.parameters())


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same numbers in every way that tensors lie in memory."""
    found = {"contiguous": x, "strided": torch.stack([x, x], -1)[..., 0]}
    if x.dim() == 4:
        found["channels_last"] = x.contiguous(memory_format=torch.channels_last)
    if x.dim() == 5:
        found["channels_last_3d"] = x.contiguous(memory_format=torch.channels_last_3d)
    return found


@pytest.fixture(autouse=True)
def small_tensors_too(monkeypatch):
    """The shapes of these tests are small, and torch would be quicker: have the kernels do them nevertheless."""
    monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})


@pytest.fixture(params=["cpu", "torch"])
def backend(request, monkeypatch):
    """Each test with kernels, and with torch's operations in their place."""
    if request.param == "torch":
        monkeypatch.setattr(common, "FORCED", "torch")
    return request.param


@pytest.fixture
def dirty_memory(monkeypatch):
    """Fresh memory full of NaN: a kernel that leaves an entry unwritten is found out."""
    like, empty = torch.empty_like, torch.empty

    def dirty(make):
        def fresh(*arguments, **options):
            tensor = make(*arguments, **options)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return fresh

    monkeypatch.setattr(torch, "empty_like", dirty(like))
    monkeypatch.setattr(torch, "empty", dirty(empty))


@over("numbers")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_output_and_gradients_are_those_of_the_formula(norm, dtype, backend, dirty_memory):
    for shape in norm.shapes:
        for layout, x in layouts((random(shape, 0) * 2 + 3).to(dtype)).items():
            module = lively(norm.make())
            if dtype is torch.float64:
                module.double()
            wanted, wanted_gradients = exact(norm, module, x, None, "none")
            x = x.detach().requires_grad_()
            y = module(x)
            assert y.dtype is dtype and y.shape == x.shape, layout
            close(y, wanted, dtype)
            if backend == "torch" and dtype is torch.bfloat16:
                continue  # torch sums these gradients in bfloat16; how far off that is, is not ours to test
            for found, exactly in zip(
                gradients(y, random(shape, 3), x, *module.parameters()), wanted_gradients, strict=True
            ):
                close(found, exactly, dtype)


@over("fused", of=lambda norm: norm.residual)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_fused_is_the_norm_then_the_rest(norm, activation, with_residual, backend, dirty_memory):
    for shape in norm.shapes:
        for dtype in (torch.float32, torch.bfloat16):
            module = lively(norm.make())
            module.activation = activation
            for x in layouts((random(shape, 0) * 2 + 3).to(dtype)).values():
                residual = random(shape, 1, dtype) if with_residual else None
                wanted, wanted_gradients = exact(norm, module, x, residual, activation)
                inputs = [t.detach().requires_grad_() for t in (x, residual) if t is not None]
                y = module(*inputs)
                close(y, wanted, dtype, 2 if backend == "torch" else 1)
                if dtype is torch.bfloat16 and backend == "torch":
                    continue  # rounded between its steps, so that a relu may fall on the other side
                found = gradients(y, random(shape, 3), *inputs, *module.parameters())
                for one, exactly in zip(found, wanted_gradients, strict=True):
                    close(one, exactly, dtype, 2)


@over("dropout", of=lambda norm: norm.residual)
def test_dropout_drops_its_share_and_its_gradient(norm):
    for shape in norm.shapes:
        for x in layouts(random(shape, 0, torch.float32)).values():
            module = lively(norm.make())
            plain = module(x)
            module.dropout = 0.4
            torch.manual_seed(5)
            x = x.detach().requires_grad_()
            y = module(x)
            kept = y != 0
            close(y[kept], plain[kept] / 0.6, torch.float32)
            torch.manual_seed(5)
            assert torch.equal(module(x), y), "the same seed must give the same mask"
            assert not torch.equal(module(x), y), "another draw must give another"
            # the gradient is that of the norm for what arrives through the mask
            (found,) = gradients(y, random(shape, 3), x)
            upstream = torch.where(kept, random(shape, 3, torch.float32) / 0.6, 0)
            module.dropout = 0.0
            (wanted,) = gradients(module(x), upstream, x)
            close(found, wanted, torch.float32)
            module.dropout = 0.4
            assert (module.eval()(x) != 0).all(), "evaluation drops nothing"


@over("gradcheck")
def test_derivatives_agree_with_differences(norm):
    module = lively(norm.make()).double()
    x = random(norm.shapes[0], 0).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    assert torch.autograd.gradgradcheck(module, (x,))


@over("second")
def test_second_derivatives_of_the_kernel_are_those_of_the_formula(norm):
    module = lively(norm.make())
    x = random(norm.shapes[0], 0, torch.float32).requires_grad_()
    (first,) = torch.autograd.grad(module(x).sin().sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first.square().sum(), x)
    twice = copy.deepcopy(module).double()
    x = x.detach().double().requires_grad_()
    (first,) = torch.autograd.grad(norm.reference(twice, x).sin().sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(first.square().sum(), x)
    close(found, wanted, torch.float32, 5)


@over("twin", of=lambda norm: norm.twin)
def test_it_is_torchs_module_with_torchs_checkpoint(norm):
    ours, theirs = lively(norm.make()), norm.twin()
    assert isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for mode in (True, False):
        for shape in norm.shapes:
            x = random(shape, 0, torch.float32)
            close(ours.train(mode)(x), theirs.train(mode)(x).double(), torch.float32)
    for name, value in theirs.state_dict().items():  # running statistics moved alike
        torch.testing.assert_close(ours.state_dict()[name], value)
    ours.load_state_dict(theirs.state_dict())
    assert str(ours).split("(", 1)[1].startswith(str(theirs).split("(", 1)[1][:-1])


@over("compile")
def test_compiled_is_the_same_and_has_no_graph_break(norm):
    torch._dynamo.reset()
    module = lively(norm.make())
    if norm.residual:
        module.activation = "silu"
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    x = random(norm.shapes[0], 0, torch.float32).requires_grad_()
    y, wanted = compiled(x), module(x)
    close(y, wanted, torch.float32)
    found = gradients(y, random(x.shape, 3), x, *compiled.parameters())
    for one, exactly in zip(found, gradients(wanted, random(x.shape, 3), x, *module.parameters()), strict=True):
        close(one, exactly, torch.float32)


@over("func")
def test_function_transforms(norm):
    module = lively(norm.make()).eval()
    x, tangent = random(norm.shapes[0], 0, torch.float32), random(norm.shapes[0], 1, torch.float32)
    many = torch.stack([x, tangent])
    close(torch.func.vmap(module)(many), torch.stack([module(one) for one in many]), torch.float32)
    _, forward = torch.func.jvp(module, (x,), (tangent,))
    small = 1e-6
    twice = copy.deepcopy(module).double()
    wanted = (twice(x.double() + small * tangent) - twice(x.double() - small * tangent)) / (2 * small)
    close(forward, wanted, torch.float32, 5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        close(torch.autograd.forward_ad.unpack_dual(module(dual)).tangent, wanted, torch.float32, 5)


@over("autocast")
def test_autocast_keeps_the_type_and_float32_statistics(norm):
    module = lively(norm.make())
    x = random(norm.shapes[0], 0, torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    wanted, (by_x, *_) = exact(norm, module, x, None, "none")
    close(y, wanted, torch.bfloat16)
    close(gradients(y, random(x.shape, 3), x)[0], by_x, torch.bfloat16)


@over("export")
def test_export_is_made_of_torchs_operations(norm):
    module = lively(norm.make()).eval()
    x = random(norm.shapes[0], 0, torch.float32)
    program = torch.export.export(module, (x,))
    close(program.module()(x), module(x), torch.float32)
    assert not any("trimtab" in str(node.target) for node in program.graph.nodes), "it must run where trimtab is not"


@over("copies")
def test_copies(norm):
    module = lively(norm.make())
    x = random(norm.shapes[0], 0, torch.float32)
    wanted = module(x)
    torch.testing.assert_close(copy.deepcopy(module)(x), wanted)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(x), wanted)


@over("repr")
def test_repr_names_every_option(norm):
    module = norm.make()
    if norm.residual:
        module.activation, module.dropout = "gelu", 0.1
        assert "activation=gelu, dropout=0.1" in repr(module)


@over("threads")
def test_the_number_of_threads_does_not_matter(norm):
    x = random((16, *norm.shapes[0][1:]), 0, torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            module, own = lively(norm.make()), x.clone().requires_grad_()
            y = module(own)
            results.append((y, gradients(y, random(x.shape, 3), own)[0]))
    finally:
        torch.set_num_threads(threads)
    for y, gradient in results[1:]:
        close(y, results[0][0], torch.float32)
        close(gradient, results[0][1], torch.float32)


@over("nan")
def test_a_nan_stays_visible(norm):
    module = lively(norm.make())
    for dtype in (torch.float32, torch.bfloat16):
        x = random(norm.shapes[0], 0, dtype)
        x[0, 0] = float("nan")
        for activation in ("none", "relu", "gelu", "silu") if norm.residual else ("none",):
            module.activation = activation
            assert module(x).isnan().any(), f"{activation} must not hide a NaN"


def test_kernels_serve_what_they_say():
    assert ops.backend_of(torch.ones(3)) == "cpu", f"no kernels: {why_no_kernels}"
    assert ops.backend_of(torch.ones(3, dtype=torch.float64)) == "torch"
    assert ops.backend_of(torch.ones(3, dtype=torch.float16)) == "torch"
    assert ops.backend_of(torch.ones(0)) == "torch"
    assert ops.backend_of(torch.ones(3, device="meta")) == "torch"


@over("small")
def test_small_tensors_go_to_torch_and_give_the_same(norm, monkeypatch):
    monkeypatch.undo()
    module = lively(norm.make())
    x = random(norm.shapes[0], 0, torch.float32)
    wanted, _ = exact(norm, module, x, None, "none")
    close(module(x), wanted, torch.float32)
