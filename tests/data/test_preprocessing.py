"""The suite that all preprocessing of inputs passes, against two passes in float64 over all rows, written from the formulas."""

from __future__ import annotations

import copy
import io
import math
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.data import FeatureMasking, FeatureNoise, MinMax, Standardize, Whiten
from trimtab.data.input_report import InputWarning, Trouble
from trimtab.data.preprocessing import Preprocessing


def min_max(x: np.ndarray) -> np.ndarray:
    low, high = x.min(0), x.max(0)
    return -1 + 3 * (x - low) / np.where(high > low, high - low, 1)


def standardized(x: np.ndarray) -> np.ndarray:
    std = np.sqrt(((x - x.mean(0)) ** 2).mean(0))
    return (x - x.mean(0)) / np.where(std > 0, std, 1)


def whitened(x: np.ndarray, zca: bool) -> np.ndarray:
    """From the singular values of the data itself, with the largest entry of each axis positive."""
    centred = x - x.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    y = centred @ axes.T / (s / math.sqrt(len(x)))
    return y @ axes if zca else y


@dataclass(frozen=True)
class Member:
    """One kind of preprocessing and what it is to compute from rows in float64."""

    make: Callable[..., Preprocessing]
    formula: Callable[[np.ndarray], np.ndarray]


MEMBERS = {
    "min_max": Member(lambda n, **k: MinMax(n, -1, 2, **k), min_max),
    "standardize": Member(Standardize, standardized),
    "whiten_pca": Member(Whiten, lambda x: whitened(x, zca=False)),
    "whiten_zca": Member(lambda n, **k: Whiten(n, "zca", **k), lambda x: whitened(x, zca=True)),
}
every_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=list(MEMBERS))


def table(rows: int = 1000, seed: int = 0) -> torch.Tensor:
    """Four correlated features of unlike scale, one with a large mean, in float64."""
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 1] += 0.9 * x[:, 0]
    return x * torch.tensor([1.0, 100.0, 0.01, 5.0]) + torch.tensor([0.0, 1000.0, 0.0, -50.0])


def expected(member: Member, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(member.formula(x.double().numpy()))


def quiet_fit(layer: Preprocessing, data, **options) -> Preprocessing:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return layer.fit(data, **options)


# -- numbers ---------------------------------------------------------------------------------------------------------


@every_member
@pytest.mark.parametrize("sizes", [[1000], [10] * 100, [1, 999], [999, 1], [1] * 1000, [0, 500, 0, 500]])
def test_any_batches_give_the_statistics_of_all_rows(member, sizes):
    x = table()
    layer = member.make(4).fit(list(x.split(sizes)))
    # Correlations of 0.7 and a mean of 10 deviations: roundings of 2e-16 grow by less than 1e3, over up to 1000 merges.
    torch.testing.assert_close(layer(x), expected(member, x), rtol=0, atol=1e-10)
    assert layer.count == 1000


@every_member
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_of_a_million_deviations_is_taken_off_to_rounding(member, dtype):
    x = (torch.randn(4096, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e6).to(dtype)
    layer = member.make(3)
    for batch in x.split(64):
        layer.partial_fit(batch)
    y = layer.eval()(x)
    assert y.dtype == dtype
    # float64: a mean of 1e6 is known to 1e-10. float32: the sums are in float64, what is left is the output's own rounding,
    # 2.4e-7 at 4.
    torch.testing.assert_close(y.double(), expected(member, x), rtol=0, atol=1e-8 if dtype == torch.float64 else 1e-6)


@every_member
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_output_has_the_type_of_the_input(member, dtype):
    x = (table() / 100).to(dtype)
    layer = member.make(4).fit(x)
    y = layer(x)
    assert y.dtype == dtype and layer.mean.dtype == torch.float64
    # Outputs reach 10 (the feature with the large mean has few digits in 16 bits, but those are the input's).
    error = (y.double() - expected(member, x)).abs().max()
    assert error <= 10 * torch.finfo(dtype).eps + 1e-11


@every_member
def test_channels_are_features_on_axis_1(member):
    x = table(20 * 5 * 6).reshape(20, 5, 6, 4).movedim(-1, 1)
    layer = member.make(4, axis=1).fit(DataLoader(x, batch_size=7))
    rows = x.movedim(1, -1).reshape(-1, 4)
    y = layer(x)
    torch.testing.assert_close(y.movedim(1, -1).reshape(-1, 4), expected(member, rows), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-10, atol=1e-10)
    assert layer.count == 20 * 5 * 6


@every_member
def test_inverse(member):
    x = table()
    layer = member.make(4).fit(x)
    torch.testing.assert_close(layer.inverse(layer(x)), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.inverse(layer(x.float())).double(), x, rtol=1e-4, atol=1e-3)


# -- other people's implementations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_scikit_learn_agrees(load):
    x = load().data
    n, features = x.shape
    pairs = [
        (MinMax(features), MinMaxScaler(), 1.0, 1e-14),
        (MinMax(features, -3, 0.5), MinMaxScaler((-3, 0.5)), 1.0, 1e-14),
        (Standardize(features), StandardScaler(), 1.0, 1e-12),
        # Theirs divides by n - 1. The smallest of the axes of cancer has 1e-6 of the deviation of the largest.
        (Whiten(features), PCA(whiten=True, svd_solver="full"), math.sqrt(n / (n - 1)), 1e-9),
        (Whiten(features, components=5), PCA(5, whiten=True, svd_solver="full"), math.sqrt(n / (n - 1)), 1e-9),
    ]
    for ours, theirs, factor, tolerance in pairs:
        loader = DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=32)
        y, wanted = ours.fit(loader)(torch.from_numpy(x)).numpy(), theirs.fit_transform(x) * factor
        np.testing.assert_allclose(y, wanted, rtol=0, atol=tolerance, err_msg=repr(theirs))
        np.testing.assert_allclose(
            ours.inverse(torch.from_numpy(y)).numpy(), theirs.inverse_transform(wanted / factor), rtol=1e-8, atol=1e-8
        )


def test_scikit_learn_agrees_on_missing_values():
    x = load_wine().data
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    for ours, theirs in ((MinMax(13), MinMaxScaler()), (Standardize(13), StandardScaler())):
        y = quiet_fit(ours, np.array_split(x, 9))(torch.from_numpy(x))
        np.testing.assert_allclose(y, theirs.fit_transform(x), rtol=0, atol=1e-12)


def test_kornia_agrees_on_zca():
    from kornia.enhance import ZCAWhitening

    x = torch.randn(300, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] += 0.5 * x[:, 0]
    theirs = ZCAWhitening(eps=0.0, unbiased=False).fit(x)
    ours = Whiten(12, "zca").fit(x.flatten(1))
    torch.testing.assert_close(ours(x.flatten(1)).view_as(x), theirs(x), rtol=0, atol=1e-12)


# -- learning --------------------------------------------------------------------------------------------------------


def kinds_of_data(x: torch.Tensor) -> dict:
    y = torch.zeros(len(x))
    return {
        "tensor": x,
        "array": x.numpy(),
        "loader of pairs": DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True),
        "loader of tensors": DataLoader(x, batch_size=64),
        "loader of dicts": DataLoader([{"y": b, "x": a} for a, b in zip(x, y, strict=True)], batch_size=64),
        "generator": (part for part in x.split(64)),
        "list of arrays": np.array_split(x.numpy(), 5),
        "data set of rows": TensorDataset(x, y),
        "nested": [((part, 1), "name") for part in x.split(64)],
    }


@every_member
@pytest.mark.parametrize("kind", list(kinds_of_data(table(1))))
def test_fit_takes_batches_of_any_kind(member, kind):
    x = table(300)
    layer = member.make(4).fit(kinds_of_data(x)[kind])
    torch.testing.assert_close(layer(x), expected(member, x), rtol=0, atol=1e-10)


def test_fit_takes_a_file_mapped_into_memory(tmp_path):
    x = table(20).numpy()
    np.save(tmp_path / "x.npy", x)
    layer = Standardize(4).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    torch.testing.assert_close(layer.mean, torch.from_numpy(x).mean(0))
    layer.fit((100 * x).astype("int32"))
    torch.testing.assert_close(layer.mean, torch.from_numpy(np.trunc(100 * x)).mean(0))


@every_member
def test_fit_starts_anew_and_ends_the_learning(member):
    layer = member.make(4).fit(table(seed=1)).fit(table())
    before = copy.deepcopy(layer.state_dict())
    layer.train()(table(seed=2))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    torch.testing.assert_close(layer(table()), expected(member, table()), rtol=0, atol=1e-10)


@every_member
def test_fit_takes_as_many_batches_as_it_is_told_and_asks_for_no_more(member):
    asked = []

    def batches():
        for number in range(100):
            asked.append(number)
            yield table(seed=number)

    layer = member.make(4).fit(batches(), batches=3)
    assert asked == [0, 1, 2] and layer.count == 3000


@every_member
def test_fit_asks_for_random_numbers_only_what_the_loader_asks(member):
    loader = DataLoader(TensorDataset(table()), batch_size=50, shuffle=True)
    torch.manual_seed(0)
    for _ in loader:
        pass
    after = torch.get_rng_state()
    torch.manual_seed(0)
    member.make(4).fit(loader)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("make", [Standardize, Whiten])
def test_fit_holds_one_batch_at_a_time(make):
    """A stream of 16 MB in batches of 80 kB, and one array of 16 MB; NumPy's memory is what tracemalloc sees."""
    row = np.random.default_rng(0).normal(size=(2_500, 4))
    layer = make(4).fit([row])  # what is imported and cached once is not counted
    tracemalloc.start()
    layer.fit(row + number for number in range(200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    whole = np.tile(row, (200, 1))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    layer.fit(whole)
    pieces = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert whole.nbytes == 16_000_000
    assert peak < 3_000_000 and pieces < 3_000_000


@every_member
def test_passing_batches_teach_while_training_with_gradients_only(member):
    layer = member.make(4)
    layer(table())
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        layer(table(seed=1))
    layer.eval()(table(seed=2))
    layer.train()(torch.empty(0, 4, dtype=torch.float64))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    torch.testing.assert_close(layer.eval()(table()), expected(member, table()), rtol=0, atol=1e-10)


@every_member
def test_passing_batches_teach_as_many_times_as_they_may(member):
    layer = member.make(4, batches=2)
    for number in range(2):
        layer(table(seed=number))
    before = copy.deepcopy(layer.state_dict())
    layer(table(seed=2))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    both = torch.cat([table(seed=0), table(seed=1)])
    torch.testing.assert_close(layer(both), expected(member, both), rtol=0, atol=1e-10)
    other = member.make(4, batches=2)
    other.load_state_dict(layer.state_dict())
    other(table(seed=2))  # a checkpoint knows that it has learned enough
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@every_member
def test_before_the_first_batch_the_input_passes(member):
    x = table()
    assert torch.equal(member.make(4).eval()(x), x)
    assert torch.equal(member.make(4).inverse(x), x)


@every_member
def test_gradients_pass_as_through_a_fixed_map(member):
    x = table().requires_grad_(True)
    layer = member.make(4).fit(x)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    step = torch.zeros_like(x).add_(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    slope = (layer(x + step) - layer(x)).sum(1)  # the map is affine, so its difference is its slope
    torch.testing.assert_close((gradient * step).sum(1), slope, rtol=1e-9, atol=1e-9)


# -- what is wrong with data -----------------------------------------------------------------------------------------


@every_member
def test_a_constant_feature_does_no_harm_and_is_reported(member):
    x = table()
    x[:, 2] = 7.3
    with pytest.warns(InputWarning, match=r"^\w+: constant feature 2\. report\(\) tells more\.$"):
        layer = member.make(4).fit(x.split(10))
    assert layer.report().troubles == (Trouble(2, "constant", 1000),)
    y, others = layer(x), layer(x + torch.tensor([0.0, 0.0, 1.0, 0.0]))
    if isinstance(layer, Whiten):
        assert layer.report().dropped == 1
        rest = expected(member, x[:, [0, 1, 3]])
        if layer.kind == "pca":
            assert torch.equal(y[:, 3], torch.zeros(1000, dtype=torch.float64))
            torch.testing.assert_close(y[:, :3], rest, rtol=0, atol=1e-10)
        else:
            assert torch.equal(y[:, 2], torch.zeros(1000, dtype=torch.float64))
            torch.testing.assert_close(y[:, [0, 1, 3]], rest, rtol=0, atol=1e-10)
        assert torch.equal(others, y)
    else:  # only shifted (and mapped to the lower bound)
        low = -1 if isinstance(layer, MinMax) else 0
        torch.testing.assert_close(y[:, 2], torch.full((1000,), float(low), dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(others[:, 2] - y[:, 2], torch.full_like(y[:, 2], 3.0 if low else 1.0))
        kept = [0, 1, 3]
        torch.testing.assert_close(y[:, kept], expected(member, x)[:, kept], rtol=0, atol=1e-10)


@every_member
def test_a_spread_at_the_level_of_rounding_is_constant(member):
    """0.1 and its neighbour in float64; scikit-learn calls that constant, and so do we."""
    x = table()
    x[:, 0] = 0.1
    x[::2, 0] = math.nextafter(0.1, 1.0)
    assert x[:, 0].std() > 0
    layer = quiet_fit(member.make(4), x.split(10))
    assert Trouble(0, "constant", 1000) in layer.report().troubles
    assert StandardScaler().fit(x.numpy()).scale_[0] == 1.0
    assert layer(x).abs().max() < 10


@every_member
def test_small_units_are_not_constant(member):
    x = table() * 1e-20
    layer = member.make(4).fit(x)
    torch.testing.assert_close(layer(x), expected(member, x), rtol=0, atol=1e-10)


def spoiled(seed: int = 0) -> tuple[torch.Tensor, list[Trouble]]:
    """A table with gaps of two kinds in two features."""
    x = table()
    gaps = torch.rand(1000, 4, generator=torch.Generator().manual_seed(seed)) < 0.05
    gaps[:, [1, 2]] = False
    x[gaps] = math.nan
    x[::100, 3] = math.inf
    x[5, 3] = -math.inf
    troubles = [
        Trouble(0, "missing", int(torch.isnan(x[:, 0]).sum())),
        Trouble(3, "missing", int(torch.isnan(x[:, 3]).sum())),
        Trouble(3, "infinite", int(torch.isinf(x[:, 3]).sum())),
    ]
    return x, troubles


@every_member
def test_missing_values_are_left_out_and_stay(member):
    x, troubles = spoiled()
    layer = member.make(4)
    with pytest.warns(InputWarning, match=r"missing values in features 0, 3; 11 infinite values in feature 3") as told:
        layer.fit(x.split(37))
    assert len(told) == 1
    assert list(layer.report().troubles) == troubles
    y, whole = layer(x), torch.isfinite(x).all(1)
    if isinstance(layer, Whiten):  # the covariance is of complete rows
        torch.testing.assert_close(y[whole], expected(member, x[whole]), rtol=0, atol=1e-10)
        assert not torch.isfinite(y[~whole]).any(1).any() or layer.kind == "zca"
        assert layer.report().incomplete == int((~whole).sum())
        assert layer.rows == int(whole.sum())
    else:
        for feature in range(4):
            known = torch.isfinite(x[:, feature])
            wanted = member.formula(x[known][:, [feature]].numpy())[:, 0]
            torch.testing.assert_close(y[known, feature], torch.from_numpy(wanted), rtol=0, atol=1e-10)
        assert torch.equal(torch.isfinite(y), torch.isfinite(x))
        assert layer.samples.tolist() == torch.isfinite(x).sum(0).tolist()


@every_member
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_missing_values_are_filled_with_the_mean(member, dtype):
    x, _ = spoiled()
    x = x.to(dtype)
    layer = quiet_fit(member.make(4, missing="mean"), x)
    filled = torch.where(torch.isfinite(x), x, math.nan).double()
    rows = filled[torch.isfinite(filled).all(1)] if isinstance(layer, Whiten) else filled
    filled = torch.where(torch.isnan(filled), rows.nanmean(0), filled)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(layer(x).double(), layer(filled), rtol=0, atol=tolerance)
    assert layer.filled == int((~torch.isfinite(x)).sum())


@every_member
def test_a_feature_that_never_had_a_value(member):
    x = table()
    x[:, 1] = math.nan
    layer = member.make(4, missing="mean")
    if isinstance(layer, Whiten):
        with pytest.raises(ValueError, match=r"Whiten.fit got 1000 rows, and none that it can learn from"):
            layer.fit(x)
    else:
        y = quiet_fit(layer, x)(x)
        assert torch.equal(y[:, 1], torch.zeros(1000, dtype=torch.float64))
        torch.testing.assert_close(y[:, 0], expected(member, x[:, :1])[:, 0], rtol=0, atol=1e-10)


@every_member
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_missing_values_can_be_refused(member, bad):
    x = table()
    x[3, 2] = bad
    layer = member.make(4, missing="raise").fit(table(seed=1))
    before = copy.deepcopy(layer.state_dict())
    for call in (layer, layer.fit, layer.partial_fit, layer.eval()):
        with pytest.raises(ValueError, match=r"features \[2\] hold NaN or infinity; clean or drop them first"):
            call(x)
        assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@every_member
def test_a_training_is_warned_once_and_goes_on_where_warnings_are_errors(member, capsys):
    x, _ = spoiled()
    layer = member.make(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    assert "infinite values in feature 3" in capsys.readouterr().err
    layer(x)
    assert capsys.readouterr().err == ""
    assert layer.count == 2000


@pytest.mark.parametrize("layer", [FeatureNoise(4, 0.1), FeatureMasking(4, 0.1)])
def test_augmentations_that_go_by_statistics_refuse_missing_values(layer):
    x, _ = spoiled()
    with pytest.raises(ValueError, match=r"features \[0, 3\] hold NaN or infinity; clean or drop them first"):
        layer(x)


def test_the_report_is_a_table():
    x, _ = spoiled()
    x[:, 2] = 5.0
    layer = quiet_fit(Whiten(4), x)
    n, m = (int(torch.isnan(x[:, j]).sum()) for j in (0, 3))
    report = layer.report()
    assert str(report).split("\n")[:-1] == [
        "Whiten of 4 features, fitted on 1000 rows",
        "feature  trouble   count",
        f"      0  missing  {n:6d}",
        "      2  constant   1000",
        f"      3  missing  {m:6d}",
        "      3  infinite     11",
        f"{report.incomplete} incomplete rows were left out",
        "1 of 4 directions dropped: they are constant, or follow from the others",
    ]
    assert str(report).split("\n")[-1].startswith("condition number of the input ")
    assert (
        str(Standardize(2).fit(table()[:, :2]).report()) == "Standardize of 2 features, fitted on 1000 rows: no trouble"
    )
    many = quiet_fit(Standardize(30), torch.ones(3, 30))
    assert str(many.report()).endswith("\nand 10 more")
    assert many.report().in_words() == "constant features 0, 1, 2, 3 and 26 more"


# -- being a module --------------------------------------------------------------------------------------------------


@every_member
def test_a_checkpoint_carries_everything(member):
    x, _ = spoiled()
    layer = quiet_fit(member.make(4), x)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    other = member.make(4)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    assert other.report() == layer.report()
    for twin in (other.eval(), copy.deepcopy(layer)):
        assert torch.equal(twin(table(seed=1)), layer(table(seed=1)))


@every_member
def test_statistics_keep_their_precision_when_the_model_changes_its(member):
    x = table() + 1e6
    layer = member.make(4).fit(x)
    model = nn.Sequential(layer, nn.Linear(4, 2, dtype=torch.float64))
    wanted = layer(x)
    for change in (model.half, model.bfloat16, model.float, model.double, lambda: model.to(torch.float16)):
        change()
        assert {buffer.dtype for buffer in layer.buffers()} == {torch.float64}
        assert torch.equal(layer(x), wanted)
    assert {b.dtype for b in member.make(4).to("meta").to_empty(device="cpu").buffers()} == {torch.float64}


def test_checkpoints_of_a_time_before_missing_values_were_counted_are_read():
    mean, variance = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])  # float32, as they were then
    layer = Standardize(2)
    layer.load_state_dict({"mean": mean, "variance": variance, "count": torch.tensor(10.0)})
    assert torch.equal(layer.eval()(torch.tensor([[3.0, 5.0]])), torch.ones(1, 2))
    assert layer.samples.tolist() == [10.0, 10.0]
    with pytest.raises(RuntimeError, match=r'Missing key.*"variance"'):
        layer.load_state_dict({"mean": mean, "count": torch.tensor(10.0)})


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Standardize(4), "Standardize(4, axis=-1)"),
        (Standardize(4, 1, missing="mean", batches=9), "Standardize(4, axis=1, missing='mean', batches=9)"),
        (MinMax(3, -1), "MinMax(3, low=-1, high=1, axis=-1)"),
        (Whiten(3), "Whiten(3, kind='pca', axis=-1)"),
        (Whiten(3, "zca", 2, prior=3), "Whiten(3, kind='zca', components=2, axis=-1, prior=3)"),
    ],
)
def test_repr(layer, text):
    assert repr(layer) == text


@every_member
def test_wrong_inputs_are_refused(member):
    layer = member.make(4)
    name = type(layer).__name__
    with pytest.raises(ValueError, match=rf"{name}\(4\) got input of shape \(2, 3\) with 3 features on axis -1. Both"):
        layer(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=rf"{name}\(4\) got input of shape \(4,\) without axis 1"):
        member.make(4, axis=1)(torch.zeros(4))
    with pytest.raises(ValueError, match=rf"{name} got an input of type int64. It must be floating point: x.float\(\)"):
        layer(torch.zeros(2, 4, dtype=torch.long))
    for data, message in (
        ([], r"fit got 0 rows, and none that it can learn from"),
        (torch.full((3, 4), math.nan), r"fit got 3 rows, and none"),
        (5, rf"{name}.fit got int. It takes a tensor, an array, or what gives batches"),
        (["text"], rf"{name} cannot learn from a batch of type str"),
        ([{"a": torch.zeros(2, 3), "b": "c"}], r"a dict with 'a' of shape \(2, 3\), none of which has 4 features"),
        ([torch.zeros(2, 3)], rf"{name}\(4\) got input of shape \(2, 3\) with 3 features"),
    ):
        layer.fit(table())
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=message):
            layer.fit(data)
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    with pytest.raises(ValueError, match=r"batches=0\): batches must be 1 or more, or None for all"):
        layer.fit(table(), batches=0)
    x = table(3)
    assert torch.equal(layer.fit([{"a": x + 1, "b": x}], key="b").mean, member.make(4).fit(x).mean)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Standardize(0), r"Standardize\(0\): features must be a whole number, 1 or more"),
        (lambda: Standardize(2, missing="drop"), r"missing must be one of 'keep', 'mean', 'raise'"),
        (lambda: Standardize(2, batches=0), r"batches=0\): batches must be 1 or more, or None"),
        (lambda: MinMax(2, 1, 1), r"MinMax: low=1 and high=1 must be finite numbers with low below high"),
        (lambda: MinMax(2, 0, math.inf), r"must be finite numbers"),
        (lambda: Whiten(2, "cholesky"), r"Whiten\(kind='cholesky'\): kind must be one of 'pca', 'zca'"),
        (lambda: Whiten(2, components=3), r"components must be from 1 to 2, or None for all"),
        (lambda: Whiten(2, eps=1), r"eps must lie in \[0, 1\)"),
        (lambda: Whiten(2, prior=-1), r"prior must be 0 or a positive number"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
