"""Clipping against its formulas in float64, and against torch, Keras and optax, with the differences that are documented."""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.optim import ClipStats, ZClip, clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_
from trimtab.optim.gradients import grad_norm

SHAPES = ((5, 7), (7,), (4, 3, 2, 2), (), (0, 3), (1, 6))
# a norm is a sum of up to some hundred squares, then one product: in units of the rounding of the type it is returned in
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def drawn(dtype: torch.dtype = torch.float64, scale: float = 1.0, seed: int = 0) -> list[torch.Tensor]:
    """Parameters with gradients of the scale; one of them has none."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in (*SHAPES, (3,)):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        weight.grad = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        found.append(weight)
    found[-1].grad = None
    return found


def grads(parameters: list[torch.Tensor]) -> list[np.ndarray]:
    return [p.grad.double().numpy().copy() for p in parameters if p.grad is not None]


def same(parameters: list[torch.Tensor], wanted: list[np.ndarray], dtype: torch.dtype) -> None:
    for found, exactly in zip(grads(parameters), wanted, strict=True):
        np.testing.assert_allclose(found, exactly, rtol=CLOSE[dtype], atol=CLOSE[dtype] * 1e-3)


def p_norm(x: np.ndarray, p: float) -> float:
    magnitudes = np.abs(x).ravel()
    return float(magnitudes.max()) if math.isinf(p) else float((magnitudes**p).sum() ** (1 / p))


# -- the formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (-0.2, 1.0), (0.1, 0.3), (-1.0, -0.5), (-100.0, 100.0)])
def test_value(low, high, dtype):
    parameters, stats = drawn(dtype), ClipStats()
    before = grads(parameters)
    largest = clip_grad_value_(parameters, (low, high), stats=stats)
    same(parameters, [np.maximum(np.minimum(g, high), low) for g in before], dtype)
    everything = np.concatenate([g.ravel() for g in before])
    assert float(largest) == np.abs(everything).max()
    clipped = np.clip(everything, low, high)
    assert (stats.calls, stats.acted) == (1, int((clipped != everything).any()))
    if stats.acted:
        # the entry that was shortened most is one of the ends
        assert stats.strongest == pytest.approx(min(1, np.abs(clipped / everything).min()))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("share", [0.01, 0.999, 1.5])
def test_norm_of_the_whole(share, p, dtype):
    parameters, stats = drawn(dtype), ClipStats()
    before = grads(parameters)
    total = p_norm(np.concatenate([g.ravel() for g in before]), p)
    bound = share * total
    found = clip_grad_norm_(parameters, bound, norm_type=p, stats=stats)
    assert float(found) == pytest.approx(total, rel=1e-6)
    if share > 1:
        assert all(np.array_equal(g, h) for g, h in zip(grads(parameters), before, strict=True))
        assert str(stats) == "never acted in 1 steps"
    else:
        same(parameters, [bound / total * g for g in before], dtype)
        assert stats.strongest == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_norm_of_each_parameter(p, dtype):
    parameters, stats = drawn(dtype), ClipStats()
    before = grads(parameters)
    norms = [p_norm(g, p) if g.size else 0.0 for g in before]
    bound = float(np.median(norms))
    total = clip_grad_norm_(parameters, bound, per_parameter=True, norm_type=p, stats=stats)
    same(parameters, [g * min(1.0, bound / n) if n else g for g, n in zip(before, norms, strict=True)], dtype)
    assert float(total) == pytest.approx(p_norm(np.array(norms), p), rel=1e-6)
    assert stats.strongest == pytest.approx(bound / max(norms), rel=1e-6)


def agc(weight: np.ndarray, grad: np.ndarray, factor: float, eps: float) -> np.ndarray:
    if weight.ndim < 2:
        weight, grad = weight.reshape(1, -1), grad.reshape(1, -1)
    result = grad.copy()
    for i in range(len(grad)):
        bound = factor * max(np.sqrt((weight[i] ** 2).sum()), eps)
        length = np.sqrt((grad[i] ** 2).sum())
        if length > bound:
            result[i] *= bound / length
    return result


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("factor", [0.01, 0.8, 50.0])
def test_adaptive(factor, dtype):
    parameters, stats = drawn(dtype), ClipStats()
    with torch.no_grad():
        parameters[0][2] = 0.0  # a unit of weights 0 has the size eps
    before = grads(parameters)
    weights = [p.detach().double().numpy() for p in parameters if p.grad is not None]
    total = clip_grad_adaptive_(parameters, factor, 1e-2, stats=stats)
    wanted = [agc(w, g, factor, 1e-2).reshape(g.shape) for w, g in zip(weights, before, strict=True)]
    same(parameters, wanted, dtype)
    assert float(total) == pytest.approx(p_norm(np.concatenate([g.ravel() for g in before]), 2), rel=1e-6)
    shares = [
        a / b for g, h in zip(wanted, before, strict=True) for a, b in zip(g.ravel(), h.ravel(), strict=True) if b
    ]
    assert stats.strongest == pytest.approx(min(1, *shares), rel=10 * CLOSE[dtype])


@pytest.mark.parametrize("groups", [1, 2])
def test_adaptive_units_of_transposed_convolutions(groups):
    conv = nn.ConvTranspose2d(4, 6, 3, groups=groups).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (conv(x).square().sum()).backward()
    weight, before = conv.weight.detach().numpy(), conv.weight.grad.numpy().copy()
    clip_grad_adaptive_(conv.parameters(), 0.1, transposed={conv.weight: groups})
    each = 4 // groups
    for unit in range(6):  # it belongs to one group, and has an index in it
        group, place = divmod(unit, 6 // groups)
        rows = slice(group * each, group * each + each)
        wanted = agc(weight[rows, place].ravel(), before[rows, place].ravel(), 0.1, 1e-3).ravel()
        np.testing.assert_allclose(conv.weight.grad[rows, place].ravel(), wanted, rtol=1e-12)
    assert not np.allclose(conv.weight.grad, before)


def zclip_norms(norms: list[float], alpha: float, threshold: float, warmup: int) -> list[float]:
    """The recurrence of the paper, norm by norm."""
    mean, var = np.mean(norms[:warmup]), np.var(norms[:warmup])
    clipped = list(norms[:warmup])
    for norm in norms[warmup:]:
        z = (norm - mean) / np.sqrt(var)
        if z > threshold:
            norm = mean + threshold**2 / z * np.sqrt(var)
        clipped.append(norm)
        mean = alpha * mean + (1 - alpha) * norm
        var = alpha * var + (1 - alpha) * (norm - mean) ** 2
    return clipped


def with_norm(norm: float) -> torch.Tensor:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    w.grad = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64) * norm
    return w


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_zclip(scale):
    generator = np.random.default_rng(0)
    norms = generator.lognormal(sigma=0.3, size=400)
    norms[[60, 61, 200, 300]] *= [50, 3, 1e6, 10]
    clipper, found = ZClip(0.95, 2.0, 20), []
    for norm in norms * scale:
        w = with_norm(norm)
        assert float(clipper(w)) == pytest.approx(norm)
        found.append(float(w.grad.norm()))
    wanted = np.array(zclip_norms(list(norms), 0.95, 2.0, 20))
    np.testing.assert_allclose(found, wanted * scale, rtol=1e-9)
    assert clipper.stats.acted == (wanted < norms * (1 - 1e-12)).sum() > 4
    assert clipper.stats.strongest < 1e-5


def test_zclip_goes_on_from_a_checkpoint():
    norms = [*np.random.default_rng(1).lognormal(size=60), 100.0]
    one, found = ZClip(warmup_steps=10), []
    for place, norm in enumerate(norms):
        if place in (5, 40):  # within the warm-up, and after it
            other = ZClip(warmup_steps=10)
            other.load_state_dict(json.loads(json.dumps(one.state_dict())))
            one = other
        w = with_norm(norm)
        one(w)
        found.append(float(w.grad.norm()))
    np.testing.assert_allclose(found, zclip_norms(norms, 0.97, 2.5, 10), rtol=1e-12)


# -- what others do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_torch_clips_values_to_the_same_bits(dtype):
    ours, theirs = drawn(dtype), drawn(dtype)
    clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    assert all(np.array_equal(g, h) for g, h in zip(grads(ours), grads(theirs), strict=True))


@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1.0), (1e-3, 1e-3), (1e-6, 1e-6)])
def test_torch_ends_below_the_bound_and_we_on_it(scale, bound):
    ours, theirs = drawn(scale=scale), drawn(scale=scale)
    total = clip_grad_norm_(ours, bound)
    assert float(total) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, bound)), rel=1e-12)
    assert grad_norm(ours) == pytest.approx(bound, rel=1e-12)
    # its factor is b / (|g| + 1e-6)
    assert grad_norm(theirs) == pytest.approx(bound * float(total) / (float(total) + 1e-6), rel=1e-12)


def test_optax_clips_alike():
    optax = pytest.importorskip("optax")
    import jax

    def theirs(transform, parameters):
        listed = [p for p in parameters if p.grad is not None and p.numel()]
        values = [jax.numpy.asarray(p.detach().numpy()) for p in listed]
        updates = [jax.numpy.asarray(p.grad.numpy()) for p in listed]
        return [np.asarray(u) for u in transform.update(updates, transform.init(values), values)[0]]

    def ours(parameters):
        return [p.grad.numpy() for p in parameters if p.grad is not None and p.numel()]

    close = {"rtol": 1e-6, "atol": 1e-7}  # float32: some tens of squares, a root, a quotient, a product
    for bound in (0.3, 3.0, 100.0):
        parameters = drawn(torch.float32)
        wanted = theirs(optax.clip_by_global_norm(bound), parameters)
        clip_grad_norm_(parameters, bound)
        for found, exactly in zip(ours(parameters), wanted, strict=True):
            np.testing.assert_allclose(found, exactly, **close)
    parameters = drawn(torch.float32)
    wanted = theirs(optax.clip(0.4), parameters)
    clip_grad_value_(parameters, 0.4)
    assert all(map(np.array_equal, ours(parameters), wanted))
    for shape in SHAPES[:2]:  # its axes count from the other end; of matrices and vectors they can be named
        parameters = [p for p in drawn(torch.float32) if p.shape == shape]
        wanted = theirs(optax.adaptive_grad_clip(0.2, 1e-3, axis=-1), parameters)
        clip_grad_adaptive_(parameters, 0.2, 1e-3)
        for found, exactly in zip(ours(parameters), wanted, strict=True):
            np.testing.assert_allclose(found, exactly, **close)


KERAS = """
import json, sys, keras, numpy
assert keras.backend.backend() == "numpy"
given = [numpy.array(grad) for grad in json.loads(sys.argv[1])]
for options in json.loads(sys.argv[2]):
    variables = [keras.Variable(numpy.zeros_like(grad), dtype="float64") for grad in given]
    keras.optimizers.SGD(learning_rate=1.0, **options).apply([grad.copy() for grad in given], variables)
    print("moved", json.dumps([(-keras.ops.convert_to_numpy(v)).tolist() for v in variables]))
"""


def test_keras_clips_alike():
    """In a process of its own, since Keras chooses its backend for good; numpy is the one that starts quickly."""
    gradients = [p.grad.numpy().tolist() for p in drawn() if p.grad is not None and p.grad.ndim in (1, 2) and p.numel()]
    options = [{"clipvalue": 0.4}, {"clipnorm": 1.5}, {"global_clipnorm": 1.5}, {"global_clipnorm": 50.0}]
    shown = subprocess.run(
        [sys.executable, "-c", KERAS, json.dumps(gradients), json.dumps(options)],
        capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "numpy"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    answers = [
        json.loads(line.removeprefix("moved ")) for line in shown.stdout.splitlines() if line.startswith("moved ")
    ]
    ours = [
        lambda ps: clip_grad_value_(ps, 0.4),
        lambda ps: clip_grad_norm_(ps, 1.5, per_parameter=True),
        lambda ps: clip_grad_norm_(ps, 1.5),
        lambda ps: clip_grad_norm_(ps, 50.0),
    ]
    for clip, wanted in zip(ours, answers, strict=True):
        parameters = []
        for gradient in gradients:
            parameters.append(torch.zeros(np.shape(gradient), dtype=torch.float64, requires_grad=True))
            parameters[-1].grad = torch.tensor(gradient, dtype=torch.float64)
        clip(parameters)
        for parameter, exactly in zip(parameters, wanted, strict=True):
            np.testing.assert_allclose(parameter.grad, exactly, rtol=1e-6)  # Keras computes in float32


# -- tensors of all kinds --------------------------------------------------------------------------------------------

CLIPS = {
    "value": lambda ps, stats=None: clip_grad_value_(ps, 0.5, stats=stats),
    "norm": lambda ps, stats=None: clip_grad_norm_(ps, 0.5, stats=stats),
    "norm of each": lambda ps, stats=None: clip_grad_norm_(ps, 0.5, per_parameter=True, stats=stats),
    "adaptive": lambda ps, stats=None: clip_grad_adaptive_(ps, 0.1, stats=stats),
}


@pytest.mark.parametrize("name", CLIPS)
def test_types_may_be_mixed(name):
    kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float32]
    parameters = [p.detach().to(kind).requires_grad_() for p, kind in zip(drawn(), kinds, strict=True)]
    exact = [p.detach().double().clone().requires_grad_() for p in parameters]
    for p, q, source in zip(parameters, exact, drawn(), strict=True):
        if source.grad is not None:
            p.grad = source.grad.to(p.dtype)
            q.grad = p.grad.double().clone()
    totals = [CLIPS[name](ps) for ps in (parameters, exact)]
    assert float(totals[0]) == pytest.approx(float(totals[1]), rel=1e-6)
    for p, q in zip(parameters, exact, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.double(), q.grad, rtol=CLOSE[p.dtype], atol=1e-6)
    assert (
        sum(
            not torch.equal(p.grad.double(), s.grad)
            for p, s in zip(parameters, drawn(), strict=True)
            if s.grad is not None
        )
        > 3
    )


@pytest.mark.parametrize("name", CLIPS)
def test_no_parameters_no_gradients_one_tensor(name):
    stats = ClipStats()
    assert float(CLIPS[name]([], stats)) == float(CLIPS[name](iter([torch.ones(2, requires_grad=True)]), stats)) == 0
    assert stats.calls == 0 and str(stats) == "no step was made"
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.full((2,), 9.0)
    CLIPS[name](w, stats)
    assert w.grad.max() < 1 and stats.acted == 1


@pytest.mark.parametrize("name", CLIPS)
def test_sparse_gradients_are_clipped_by_their_rows(name):
    given = []
    for sparse in (True, False):
        torch.manual_seed(0)
        embedding = nn.Embedding(7, 3, sparse=sparse).double()
        (embedding(torch.tensor([1, 4, 1, 6, 1])) * torch.arange(1.0, 6.0).view(5, 1)).sum().backward()
        given.append((embedding.weight, float(CLIPS[name](embedding.parameters()))))
    (ours, total), (dense, wanted) = given
    assert ours.grad.is_sparse and total == pytest.approx(wanted, rel=1e-14)
    np.testing.assert_allclose(ours.grad.to_dense(), dense.grad, rtol=1e-14)
    assert grad_norm(ours) < wanted


@pytest.mark.parametrize("name", ["norm", "norm of each", "adaptive"])
def test_complex_gradients_are_clipped_as_pairs_of_numbers(name):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, dtype=torch.complex128, generator=generator).requires_grad_()
    w.grad = torch.randn(3, 4, dtype=torch.complex128, generator=generator)
    pairs = torch.view_as_real(w.detach()).flatten(1).clone().requires_grad_()
    pairs.grad = torch.view_as_real(w.grad).flatten(1).clone()
    assert float(CLIPS[name](w)) == pytest.approx(float(CLIPS[name](pairs)))
    np.testing.assert_allclose(torch.view_as_real(w.grad).flatten(1), pairs.grad, rtol=1e-13)


@pytest.mark.parametrize("name", ["norm", "norm of each", "adaptive"])
def test_gradients_whose_squares_overflow_are_clipped_like_others(name):
    large, small = drawn(torch.float32, 1e25), drawn(torch.float32)
    CLIPS[name](large), CLIPS[name](small)
    for p, q in zip(large, small, strict=True):
        if p.grad is not None and p.ndim:  # a single number may lie below the bound, once
            np.testing.assert_allclose(p.grad, q.grad, rtol=1e-5, atol=1e-8)


def test_a_small_factor_is_not_rounded_to_the_type_of_the_gradient():
    w = torch.zeros(1, dtype=torch.float16, requires_grad=True)
    w.grad = torch.full((1,), 6e4, dtype=torch.float16)
    clip_grad_norm_(w, 1e-3)  # the factor is below what float16 can hold
    assert float(w.grad) == pytest.approx(1e-3, rel=1e-3)


# -- not finite ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", CLIPS)
def test_what_is_not_finite_is_reported_and_not_hidden(name, bad):
    parameters, untouched, stats = drawn(), drawn(), ClipStats()
    for p in (parameters[0], untouched[0]):
        p.grad[1, 2] = bad
    with pytest.warns(UserWarning, match=r"1 of 5 gradients are not finite.*skip_spikes.*trimtab watch"):
        total = CLIPS[name](parameters, stats)
    assert not total.isfinite()
    if name == "value":
        torch.testing.assert_close(parameters[0].grad, untouched[0].grad.clamp(-0.5, 0.5), equal_nan=True)
    elif name == "norm":
        torch.testing.assert_close(parameters[0].grad, untouched[0].grad, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(parameters[2].grad, untouched[2].grad)
    else:  # the others are clipped as they would be
        row = parameters[0].grad[1] if name == "adaptive" else parameters[0].grad
        own = untouched[0].grad[1] if name == "adaptive" else untouched[0].grad
        torch.testing.assert_close(row, own, equal_nan=True, rtol=0, atol=0)
        CLIPS[name](untouched[1:])
        torch.testing.assert_close(parameters[2].grad, untouched[2].grad, rtol=0, atol=0)
    assert stats.nonfinite == 1 and math.isfinite(stats.mean)
    assert str(stats).endswith("gradients were not finite in 1")


def test_a_nan_alone_is_no_clipping():
    w, stats = torch.zeros(2, requires_grad=True), ClipStats()
    w.grad = torch.tensor([math.nan, 0.1])
    with pytest.warns(UserWarning, match="not finite"):
        clip_grad_value_(w, 0.5, stats=stats)
    assert str(stats) == "never acted in 1 steps; gradients were not finite in 1"


def test_zclip_learns_nothing_from_what_is_not_finite():
    one, other = ZClip(warmup_steps=3), ZClip(warmup_steps=3)
    for norm in (1.0, math.nan, 1.1, 0.9, math.inf, 1.0, 50.0):
        w = with_norm(norm)
        if math.isfinite(norm):
            other(with_norm(norm))
            one(w)
        else:
            with pytest.warns(UserWarning, match="1 of 1 gradients are not finite"):
                one(w)
    assert one.state_dict() == other.state_dict() and one.stats.acted == 1


def test_zclip_of_constant_or_vanishing_norms():
    clipper = ZClip(warmup_steps=2)
    for norm in (0.0, 0.0, 1.0):
        w = with_norm(norm)
        clipper(w)
        assert float(w.grad.norm()) == norm  # nothing is known of the usual size: it is not clipped to 0
    clipper = ZClip(warmup_steps=2)
    for norm in (1.0, 1.0, 9.0):
        w = with_norm(norm)
        clipper(w)
    assert float(w.grad.norm()) == pytest.approx(1.0)


def test_torchs_arguments_are_taken():
    for clip, theirs in (
        (clip_grad_norm_, torch.nn.utils.clip_grad_norm_),
        (clip_grad_value_, torch.nn.utils.clip_grad_value_),
    ):
        ours = list(inspect.signature(clip).parameters.values())
        wanted = list(inspect.signature(theirs).parameters.values())
        assert [(p.name, p.default, p.kind) for p in ours[: len(wanted)]] == [
            (p.name, p.default, p.kind) for p in wanted
        ]
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(wanted) :])
    parameters = drawn(torch.float64)
    before = grads(parameters)
    assert float(clip_grad_norm_(parameters, 1e9, "inf", True, False)) == max(np.abs(g).max() for g in before if g.size)
    parameters[0].grad.view(-1)[0] = math.nan
    before = grads(parameters)
    with pytest.raises(
        RuntimeError, match="norm of the gradients is nan, and must be finite: 1 of 5 gradients are not"
    ):
        clip_grad_norm_(parameters, 1e-3, error_if_nonfinite=True)
    assert all(np.array_equal(g, h, equal_nan=True) for g, h in zip(grads(parameters), before, strict=True))


# -- counting, errors ------------------------------------------------------------------------------------------------


def test_stats_tell_how_often_and_how_hard():
    stats = ClipStats()
    for step in range(400):
        stats.add(1.0 if step % 10 else 0.02 if step == 0 else 0.42)
    assert str(stats) == "acted in 40 of 400 steps (10 %), mean factor 0.41, strongest 0.02"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: clip_grad_value_(w, (2.0, 1.0)), "clip_grad_value_: low=2.0 must not be above high=1.0: .* Did you mean low=1.0, high=2.0?"),
        (lambda w: clip_grad_value_(w, (math.nan, 1.0)), "low=nan must not be above high=1.0"),
        (lambda w: clip_grad_value_(w, -0.5), "one bound, -0.5, must be positive: .* between -0.5 and 0.5. Did you mean 0.5[?]"),
        (lambda w: clip_grad_value_(w, -2.0, 1.0), r"foreach=1.0 must be True, False or None. .* clip_grad_value_\(parameters, \(-2.0, 1.0\)\)"),
        (lambda w: clip_grad_value_(w, (1.0,)), r"clip_value=\(1.0,\) must be one number or a pair"),
        (lambda w: clip_grad_norm_(w, "much"), "clip_grad_norm_: max_norm=much must be positive"),
        (lambda w: clip_grad_norm_(w, 0.0), "clip_grad_norm_: max_norm=0.0 must be positive"),
        (lambda w: clip_grad_norm_(w, 1.0, norm_type=0.0), "norm_type=0.0 must be positive"),
        (lambda w: clip_grad_adaptive_(w, -0.1), "clip_grad_adaptive_: factor=-0.1 must be positive"),
        (lambda w: clip_grad_adaptive_(w, eps=0.0), "eps=0.0 must be positive"),
        (lambda w: ZClip(alpha=1.0), "alpha=1.0 must lie strictly between 0 and 1"),
        (lambda w: ZClip(z_threshold=0.0), "z_threshold=0.0 must be positive"),
        (lambda w: ZClip(warmup_steps=1), "warmup_steps=1 must be a whole number of at least 2"),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, requires_grad=True))
