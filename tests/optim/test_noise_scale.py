"""The gradient noise scale, where it is known in closed form, from the two batch sizes of the paper, and on handwritten digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.optim import gradient_noise_scale

D, SIGMA = 6, 2.0
TRACE = (D + 1) + SIGMA**2 * D  # of the covariance of x (x'w - y) for normal x, a true weight of norm 1, and w = 0
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def linear_gaussian(generator: torch.Generator, sizes: list[int]) -> Batches:
    """Batches of y = x'u + noise with ‖u‖ = 1. At w = 0 the mean gradient is -u, so the noise scale is TRACE."""
    x = torch.randn(sum(sizes), D, generator=generator, dtype=torch.float64)
    y = x[:, :1] + SIGMA * torch.randn(len(x), 1, generator=generator, dtype=torch.float64)
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def at_zero() -> nn.Module:
    model = nn.Linear(D, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return model


def half_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean() / 2


def gradients(batches: Batches) -> np.ndarray:
    """Of every batch at w = 0, by hand."""
    return np.array([-(x * y).mean(0).numpy() for x, y in batches])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_both_parts_are_unbiased_and_the_interval_covers():
    generator = torch.Generator().manual_seed(0)
    sizes = [8] * 30 + [24] * 6 + [3]  # 37 batches: their sums have been joined once
    found = [gradient_noise_scale(at_zero(), half_square, linear_gaussian(generator, sizes)) for _ in range(80)]
    for values, true in (([f.signal for f in found], 1.0), ([f.noise for f in found], TRACE)):
        assert abs(np.mean(values) - true) < 3.5 * stats.sem(values)
        assert stats.sem(values) < 0.05 * true
    covered = sum(f.low < TRACE < f.high for f in found)
    assert stats.binomtest(covered, len(found), 0.95).pvalue > 1e-3
    spread = np.std([f.signal / f.noise for f in found])
    told = np.sqrt(np.mean([(f.standard_error / f.noise_scale**2) ** 2 for f in found if f.signal > 0]))
    assert 0.75 < told / spread < 1.33  # sampling error of 80: 8 % of the spread, some more of what is told
    assert {f.batches for f in found} == {37} and found[0].batch_size == pytest.approx(sum(sizes) / 37)


def test_it_is_the_estimate_from_two_batch_sizes():
    """Appendix A of McCandlish et al.: small batches against all of them as one large."""
    small, count = 8, 47
    batches = linear_gaussian(torch.Generator().manual_seed(1), [small] * count)
    large = small * count
    each = gradients(batches)
    square_small, square_large = (each**2).sum(1).mean(), (each.mean(0) ** 2).sum()
    signal = (large * square_large - small * square_small) / (large - small)
    noise = (square_small - square_large) / (1 / small - 1 / large)
    found = gradient_noise_scale(at_zero(), half_square, batches)
    assert (found.signal, found.noise) == pytest.approx((signal, noise), rel=1e-12)
    assert found.noise_scale == pytest.approx(noise / signal, rel=1e-12)


def test_the_standard_error_is_a_jackknife():
    batches = linear_gaussian(torch.Generator().manual_seed(2), [16] * 15)
    each = gradients(batches)

    def ratio(g: np.ndarray) -> float:
        noise = 16 * ((g - g.mean(0)) ** 2).sum() / (len(g) - 1)
        return ((g.mean(0) ** 2).sum() - noise / (16 * len(g))) / noise

    left = np.array([ratio(np.delete(each, k, 0)) for k in range(15)])
    error = math.sqrt(14 / 15 * ((left - left.mean()) ** 2).sum())
    found = gradient_noise_scale(at_zero(), half_square, batches)
    assert found.standard_error == pytest.approx(error / ratio(each) ** 2, rel=1e-9)
    reach = stats.t.ppf(0.975, 14) * error
    assert found.low == pytest.approx(1 / (ratio(each) + reach), rel=1e-9)
    assert found.high == pytest.approx(1 / (ratio(each) - reach) if reach < ratio(each) else math.inf, rel=1e-9)


def test_digits_against_the_gradient_of_every_sample():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 8 - 1), torch.tensor(labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    params = dict(model.named_parameters())

    def loss_of_one(params, x, y):
        return nn.functional.cross_entropy(torch.func.functional_call(model, params, (x[None],)), y[None])

    with torch.no_grad():
        every = torch.func.vmap(torch.func.grad(loss_of_one), (None, 0, 0))(params, x, y)
    each = torch.cat([g.flatten(1) for g in every.values()], 1)
    signal, noise = float(each.mean(0).square().sum()), float((each - each.mean(0)).square().sum() / len(each))
    chosen = torch.randint(len(x), (60, 32), generator=torch.Generator().manual_seed(0))  # independent draws
    found = gradient_noise_scale(model, nn.CrossEntropyLoss(), ((x[i], y[i]) for i in chosen))
    assert found.noise == pytest.approx(noise, rel=0.1) and found.signal == pytest.approx(signal, rel=0.2)
    assert found.low < noise / signal < found.high < 2 * found.low


def test_float32_does_not_drown_small_noise():
    torch.manual_seed(0)
    x = torch.randn(12, 4, 3, dtype=torch.float64)
    for scale in (1.0, 1e-3):
        batches = [(xs * scale + 1, torch.full((4, 1), -1e3, dtype=torch.float64)) for xs in x]
        models = [nn.Linear(3, 1, dtype=dtype) for dtype in (torch.float64, torch.float32)]
        models[1].load_state_dict(models[0].state_dict())
        exact = gradient_noise_scale(models[0], nn.functional.mse_loss, batches)
        found = gradient_noise_scale(models[1], nn.functional.mse_loss, [(a.float(), b.float()) for a, b in batches])
        # Gradients of 2e3 are rounded to 1e-7 of that, differences among them of scale * 2e3 / 2 to that over scale.
        assert found.noise == pytest.approx(exact.noise, rel=10 * 1e-7 / scale)
        assert found.noise_scale == pytest.approx(exact.noise_scale, rel=10 * 1e-7 / scale)


# -- what it means ---------------------------------------------------------------------------------------------------


def test_the_error_of_the_mean_gradient_falls_with_the_root_of_the_samples():
    """Hundred times the samples, a tenth of the error: less than linear return."""
    slopes = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        sizes = [4, 16, 64, 256, 1024]
        errors = [
            np.sqrt(((gradients(linear_gaussian(generator, [b] * 200)) + np.eye(1, D)) ** 2).sum(1).mean())
            for b in sizes
        ]
        slopes.append(stats.linregress(np.log(sizes), np.log(errors)).slope)
        np.testing.assert_allclose(errors, np.sqrt(TRACE / np.array(sizes)), rtol=0.15)
    reach = stats.t.ppf(0.975, 7) * stats.sem(slopes)
    assert abs(np.mean(slopes) + 0.5) < max(reach, 0.01) and reach < 0.02


def test_steps_and_samples_say_what_a_batch_gains():
    """The best step along a batch's gradient gains 1 / steps(b) of what the best step along the true gradient gains."""
    generator = torch.Generator().manual_seed(0)
    noise = gradient_noise_scale(at_zero(), half_square, linear_gaussian(generator, [32] * 400))
    assert noise.noise_scale == pytest.approx(TRACE, rel=0.1)
    for b in (8, 31, 124):
        g = gradients(linear_gaussian(generator, [b] * 4000))
        loss = [((rate * g + np.eye(1, D)) ** 2).sum(1).mean() / 2 for rate in np.linspace(0, 1.2, 121)]
        gained = (0.5 - min(loss)) / 0.5  # the loss is ‖w - u‖² / 2 and a constant
        assert gained == pytest.approx(1 / noise.steps(b), rel=0.1)
    assert noise.steps(noise.noise_scale) == noise.samples(noise.noise_scale) == 2.0
    for b in (1, 31, 1000):
        assert (noise.steps(b) - 1) * (noise.samples(b) - 1) == pytest.approx(1)


def test_at_the_minimum_there_is_only_noise():
    generator = torch.Generator().manual_seed(0)
    model = at_zero()
    with torch.no_grad():
        model.weight[0, 0] = 1.0
    found = [gradient_noise_scale(model, half_square, linear_gaussian(generator, [8] * 20)) for _ in range(20)]
    assert sum(math.isinf(f.high) for f in found) >= 16  # 97.5 % of them, up to chance
    gone = [f for f in found if f.signal <= 0]
    assert gone and all(math.isinf(f.noise_scale) and math.isinf(f.standard_error) and f.low > 0 for f in gone)
    assert gone[0].steps(8) == math.inf and gone[0].samples(8) == 1.0


def test_equal_batches_have_no_noise():
    batch = linear_gaussian(torch.Generator().manual_seed(0), [8])
    found = gradient_noise_scale(at_zero(), half_square, batch * 5)
    assert (found.noise_scale, found.standard_error, found.low, found.high, found.noise) == (0, 0, 0, 0, 0)
    assert found.signal > 0 and (found.steps(8), found.samples(8)) == (1.0, math.inf)
    still = gradient_noise_scale(at_zero(), half_square, [(x, 0 * y) for x, y in batch * 3])
    assert math.isnan(still.noise_scale) and (still.signal, still.noise) == (0.0, 0.0)


# -- around it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_everything_is_left_as_it_was(training, digits):
    model = network().train(training)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(TensorDataset(*digits), 32, shuffle=True, generator=torch.Generator().manual_seed(3))
    nn.functional.cross_entropy(model(digits[0]), digits[1]).backward()
    model[0].bias.grad = None
    before = [t.clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    states = torch.get_rng_state(), loader.generator.get_state()
    with torch.no_grad():  # as in an evaluation
        noise = gradient_noise_scale(model, nn.functional.cross_entropy, loader)
    assert noise.noise_scale > 0 and noise.batches == 16
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert [p.grad is None for p in model.parameters()] == [g is None for g in grads]
    assert all(g is None or torch.equal(g, p.grad) for g, p in zip(grads, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(loader.generator.get_state(), states[1])
    assert all(m.training == training for m in model.modules()) and not optimizer.state


def test_batches_of_other_forms_and_parameters_without_a_gradient(digits):
    model = network().eval()
    model.spare = nn.Linear(2, 2)
    model.requires_grad_(True)[0].weight.requires_grad_(False)
    parts = list(zip(digits[0].split(32), digits[1].split(32), strict=True))

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model[:5](x)

    pairs = gradient_noise_scale(model, lambda x, y: nn.functional.cross_entropy(forward(x), y), [((x), y) for x, y in parts], call=lambda m, b: nn.functional.cross_entropy(forward(b[0]), b[1]))  # fmt: skip
    named = gradient_noise_scale(
        model, None, [{"meta": "text", "deep": [{"x": x}], "y": y} for x, y in parts],
        call=lambda m, b: nn.functional.cross_entropy(forward(b["deep"][0]["x"]), b["y"]),
    )  # fmt: skip
    assert named == pairs and named.batch_size == 32


def test_errors():
    batches = linear_gaussian(torch.Generator().manual_seed(0), [8] * 4)
    for loss, some, message in (
        (nn.MSELoss(reduction="sum"), batches, r"needs a mean over the batch; the loss has reduction='sum'\. Give 'mean'"),
        (half_square, batches[:2], "needs at least 3 batches; got 2"),
        (half_square, [], "needs at least 3 batches; got 0"),
        (lambda output, target: (output - target).sum() / 0, batches, "the gradient of batch 0 is not finite"),
        (None, batches, "loss=None needs call="),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            gradient_noise_scale(at_zero(), loss, some)
    with pytest.raises(ValueError, match="without parameters that learn"):
        gradient_noise_scale(at_zero().requires_grad_(False), half_square, batches)
    with pytest.raises(ValueError, match="batch 0 has no tensor"):
        gradient_noise_scale(at_zero(), None, ["a", "b", "c"], call=lambda m, b: m.weight.sum())
