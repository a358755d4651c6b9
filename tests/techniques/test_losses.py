"""Techniques that change targets and losses: mixup, cutmix, surrogate_loss, logit_soft_cap, z_loss."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab.data import cutmix, mixup
from trimtab.nn.functional import soft_cap, surrogate_loss, z_loss
from trimtab.recipe import Refused

pytestmark = pytest.mark.usefixtures("trained_values")

MIXING = {"mixup": ("mixup(alpha=1.0)", mixup, "mlp"), "cutmix": ("cutmix(alpha=1.0)", cutmix, "images")}


def attached(text: str = "", kind: str = "mlp", lr: float = 0.1, make=torch.optim.SGD):
    model = network(kind)
    training = tt.attach(model, make(model.parameters(), lr=lr))
    if text:
        training.apply(text)
    return model, training, training.optimizers[0]


def shaped(digits, kind: str = "images") -> tuple[torch.Tensor, torch.Tensor]:
    return (digits[0].view(-1, 1, 8, 8) if kind == "images" else digits[0]), digits[1]


def seen_inputs(model: nn.Module) -> list[torch.Tensor]:
    """What the model is given, after all changes of its inputs."""
    seen: list[torch.Tensor] = []
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def twin_of(kind: str = "mlp", **options):
    """A plain training whose generators are those that a technique in another one gets."""
    return attached("", kind, **options)


# -- mixup and cutmix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXING)
def test_a_mixed_training_is_the_one_written_by_hand(name, digits):
    text, function, kind = MIXING[name]
    x, y = shaped(digits, kind)
    weight = torch.linspace(0.5, 2, 10)
    model, training, optimizer = attached(text, kind)
    plain, twin, twins = twin_of(kind)
    source = twin.generator(name, torch.device("cpu"))
    shares = []
    for step in range(4):
        rows = slice(32 * step, 32 * step + 32)
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss(weight, ignore_index=3)(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()

        mixed, mix = function(x[rows], alpha=1.0, generator=source)
        twins.zero_grad()
        output = plain(mixed)
        parts = [F.cross_entropy(output, t, weight, ignore_index=3) for t in (y[rows], y[rows][mix.partner])]
        expected = mix.share * parts[0] + (1 - mix.share) * parts[1]
        expected.backward()
        twins.step()
        shares.append(mix.share.item())
        torch.testing.assert_close(loss, expected)
    assert len(set(shares)) == 4 and min(shares) < 0.9  # every step draws anew, and they do mix
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert training.changes[0].acted()
    training.undo()
    x, y = x[:32], y[:32]
    assert F.cross_entropy(model(x), y) == F.cross_entropy(copy.deepcopy(model)(x), y)


@pytest.mark.parametrize("name", MIXING)
def test_evaluation_is_plain(name, digits):
    text, _, kind = MIXING[name]
    x, y = shaped(digits, kind)
    model, _training, optimizer = attached(text, kind)
    train(model, optimizer, (x, y), 2)
    plain = copy.deepcopy(model)  # a copy has no part in the training
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) == F.cross_entropy(plain(x), y)
    model.eval()
    # with gradients too, and whatever the size of the batch: many scripts forget no_grad
    for rows in (slice(0, 32), slice(0, 57)):
        assert F.cross_entropy(model(x[rows]), y[rows]) == F.cross_entropy(plain.eval()(x[rows]), y[rows])


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (lambda o, t: F.mse_loss(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.l1_loss(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.huber_loss(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.binary_cross_entropy_with_logits(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.multi_margin_loss(o, t), lambda y: y),
        (lambda o, t: F.multilabel_soft_margin_loss(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.soft_margin_loss(o, t), lambda y: 2 * F.one_hot(y, 10).float() - 1),
        (lambda o, t: F.cross_entropy(o, t), lambda y: F.one_hot(y, 10).float()),
        (lambda o, t: F.nll_loss(F.log_softmax(o, 1), t), lambda y: y),
        (lambda o, t: F.kl_div(F.log_softmax(o, 1), t, reduction="batchmean"), lambda y: F.one_hot(y, 10) * 0.9 + 0.01),
        (lambda o, t: F.gaussian_nll_loss(o, t, torch.ones(32, 10)), lambda y: F.one_hot(y, 10).float()),
    ],
)
def test_losses_of_classes_and_numbers_are_mixed(loss, target, digits):
    x, y = digits[0][:32], target(digits[1][:32])
    model, _training, _optimizer = attached("mixup(alpha=1.0)")
    plain, twin, _ = twin_of()
    mixed, mix = mixup(x, 1.0, generator=twin.generator("mixup", torch.device("cpu")))
    found = loss(model(x), y)
    output = plain(mixed)
    torch.testing.assert_close(found, mix.share * loss(output, y) + (1 - mix.share) * loss(output, y[mix.partner]))


def test_weights_of_samples_go_with_their_targets(digits):
    x, y = digits[0][:32], F.one_hot(digits[1][:32], 10).float()
    weight = torch.rand(32, 1, generator=torch.Generator().manual_seed(0))
    model, _training, _optimizer = attached("mixup(alpha=1.0)")
    plain, twin, _ = twin_of()
    mixed, mix = mixup(x, 1.0, generator=twin.generator("mixup", torch.device("cpu")))
    found = F.binary_cross_entropy_with_logits(model(x), y, weight)
    losses = [
        F.binary_cross_entropy_with_logits(plain(mixed), y[rows], weight[rows])
        for rows in (torch.arange(32), mix.partner)
    ]
    torch.testing.assert_close(found, mix.share * losses[0] + (1 - mix.share) * losses[1])


def test_one_mix_for_all_that_a_step_sees(digits):
    """Gradient accumulation, models that are called twice, and closures: one batch size, one mix, drawn anew for the next step."""
    x, y = digits[0][:32], digits[1][:32]
    model, _training, optimizer = attached("mixup(alpha=1.0)")
    seen = seen_inputs(model)
    optimizer.zero_grad()
    first, second = model(x), model(x)
    loss = F.cross_entropy(first, y) + F.cross_entropy(second, y)  # two calls, then two losses
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    loss.backward()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    after = F.cross_entropy(first, y)  # a loss after the step is still one of the old outputs
    torch.testing.assert_close(after, loss / 2)
    F.cross_entropy(model(x), y).backward()
    assert not torch.equal(seen[3], seen[0])
    optimizer.step()


def test_batches_of_two_sizes_in_one_step(digits):
    x, y = digits
    model, _training, optimizer = attached("mixup(alpha=1.0)")
    plain, twin, _ = twin_of()
    source = twin.generator("mixup", torch.device("cpu"))
    small, large = model(x[:16]), model(x[:48])
    losses = [F.cross_entropy(small, y[:16]), F.cross_entropy(large, y[:48])]
    for n, loss in zip((16, 48), losses, strict=True):
        mixed, mix = mixup(x[:n], 1.0, generator=source)
        torch.testing.assert_close(loss, F.cross_entropy(plain(mixed), mix.targets(y[:n], 10)))
    sum(losses).backward()
    optimizer.step()


def test_a_closure_sees_one_objective(digits):
    x, y = digits[0][:64], digits[1][:64]
    model, _training, optimizer = attached("mixup(alpha=1.0)", make=torch.optim.LBFGS, lr=1.0)
    seen = seen_inputs(model)
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert len(seen) > 5 and all(torch.equal(one, seen[0]) for one in seen)
    assert losses[-1] < losses[0]
    optimizer.step(closure)
    assert not torch.equal(seen[-1], seen[0])


def test_mixing_and_smoothing_compose(digits):
    x, y = digits[0][:32], digits[1][:32]
    for text in ("mixup(alpha=1.0), label_smoothing(smoothing=0.2)", "label_smoothing(smoothing=0.2)+mixup(alpha=1.0)"):
        model, training, _ = attached()
        for one in text.split("+"):  # in either order
            training.apply(one)
        plain, twin, _ = twin_of()
        mixed, mix = mixup(x, 1.0, generator=twin.generator("mixup", torch.device("cpu")))
        expected = F.cross_entropy(plain(mixed), mix.targets(y, 10) * 0.8 + 0.02)
        torch.testing.assert_close(F.cross_entropy(model(x), y), expected)


def test_a_loss_inside_of_the_model(digits):
    """As the models of transformers compute it, when they are given labels."""

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.head(pixels).view(-1, 10), labels.view(-1))

    x, y = digits[0][:32], digits[1][:32]
    torch.manual_seed(0)
    model = WithLoss()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    source = tt.attach(copy.deepcopy(model), torch.optim.SGD(model.parameters(), lr=0.1))
    training.apply("mixup(alpha=1.0)")
    mixed, mix = mixup(x, 1.0, generator=source.generator("mixup", torch.device("cpu")))
    with torch.no_grad():
        expected = F.cross_entropy(model.head(mixed), mix.targets(y, 10))
    torch.testing.assert_close(model(x, labels=y), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, x, y: F.cross_entropy(model(x)[:7], y[:7]),
            "mixup mixed batches of 32 samples, but cross_entropy got an input of shape (7, 10) and a target of shape (7,). Both "
            "must begin with the samples of the batch, (N, ...), in their order. Give them so, or leave mixup out.",
        ),
        (
            lambda model, x, y: F.mse_loss(model(x).view(-1), torch.zeros(320)),
            "mixup mixed batches of 32 samples, but mse_loss got an input of shape (320,) and a target of shape (320,).",
        ),
        (
            lambda model, x, y: F.cross_entropy(model(x[0]), y[0]),  # its 64 features would have been taken for samples
            "mixup mixed batches of 64 samples, but cross_entropy got an input of shape (10,) and a target of shape ().",
        ),
        (
            lambda model, x, y: F.triplet_margin_loss(*(model(x) for _ in range(3))),
            "mixup cannot mix the targets of triplet_margin_loss, which has not one target for each sample. Leave mixup out.",
        ),
    ],
)
def test_mixup_refuses_losses_that_it_would_get_wrong(call, message, digits):
    model, training, _ = attached("mixup(alpha=1.0)")
    with pytest.raises(ValueError) as error:
        call(model, digits[0][:32], digits[1][:32])
    assert message in str(error.value)
    assert not training.changes[0].acted()


def test_a_step_whose_targets_nobody_mixed_is_refused(digits):
    model, _training, optimizer = attached("mixup(alpha=1.0)")
    x, y = digits[0][:32], digits[1][:32]
    loss = -model(x).log_softmax(1)[torch.arange(32), y].mean()  # no function of torch.nn.functional
    loss.backward()
    with pytest.raises(Refused) as error:
        optimizer.step()
    assert str(error.value) == (
        "mixup mixed the inputs of this step, but saw no loss whose targets it could mix. Losses must be functions of "
        "torch.nn.functional or modules of torch.nn, outside torch.compile. Leave mixup out, or mix in the loop itself with "
        "trimtab.data.mixup."
    )


def test_cutmix_refuses_what_is_no_image(digits):
    model, training, _ = attached("cutmix")
    with pytest.raises(ValueError) as error:
        model(digits[0][:32])
    assert "cutmix takes images of shape (N, C, H, W); got shape (32, 64). mixup takes any shape." in str(error.value)
    assert not training.changes[0].acted()


def test_cutmix_refuses_targets_of_pixels(digits):
    torch.manual_seed(0)
    model = nn.Conv2d(1, 2, 1)
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("cutmix")
    x = shaped(digits)[0][:32]
    with pytest.raises(ValueError) as error:
        F.cross_entropy(model(x), (x[:, 0] > 0).long())
    assert str(error.value) == (
        "cutmix needs one target for each image; cross_entropy got a target of shape (32, 8, 8). Use mixup for targets of "
        "pixels."
    )
    assert not training.changes[0].acted()


def test_integers_are_left_alone():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Flatten(), nn.Linear(12, 3))
    for text in ("mixup", "cutmix"):
        training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)
        ids, y = torch.arange(6).view(2, 3), torch.tensor([0, 2])
        assert F.cross_entropy(model(ids), y) == F.cross_entropy(copy.deepcopy(model)(ids), y)
        training.optimizers[0].step()
        assert not training.changes[0].acted()
        training.undo()


def test_a_value_of_the_model_is_no_target(digits):
    x, y = digits[0][:32], digits[1][:32]
    model, _training, _optimizer = attached("mixup(alpha=1.0)")
    seen = seen_inputs(model)
    output = model(x)
    consistency = F.mse_loss(output, model(x) + 1)
    torch.testing.assert_close(consistency, torch.tensor(1.0))
    F.cross_entropy(output, y).backward()
    assert len(seen) == 2


@pytest.mark.parametrize("name", MIXING)
def test_bad_alpha(name):
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse(f"{name}(alpha=0)")
    assert str(error.value) == f"{name}: alpha=0 must be positive: lambda is drawn from Beta(alpha, alpha)."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup, cutmix", "cutmix cannot be combined with mixup: both would mix the same batches. Leave one out."),
        (
            "mixup, surrogate_loss",
            "mixup cannot be combined with surrogate_loss: it computes the loss anew, from targets that are not mixed.",
        ),
        ("cutmix, surrogate_loss", "cutmix cannot be combined with surrogate_loss"),
        (
            "surrogate_loss, label_smoothing",
            "surrogate_loss cannot be combined with label_smoothing: a surrogate loss has one class as its target, and "
            "nothing to smooth.",
        ),
        (
            "surrogate_loss, z_loss",
            "z_loss cannot be combined with surrogate_loss: it takes the place of the cross entropy that z-loss belongs to.",
        ),
    ],
)
def test_clashes_say_why(text, message):
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse(text)
    assert message in str(error.value)


# -- surrogate losses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["square", "log", "hinge", "exponential"])
def test_a_surrogate_takes_the_place_of_cross_entropy(kind, digits):
    x, y = digits[0][:64], digits[1][:64]
    weight = torch.linspace(0.5, 2, 10)
    model, training, optimizer = attached(f"surrogate_loss(kind={kind!r})")
    recorded: list[float] = []
    training.on("step", lambda loss: recorded.append(loss.item()))
    plain, _, twins = twin_of()
    watched, told = [], []
    for _ in range(3):
        optimizer.zero_grad()
        output = model(x)
        with torch.no_grad():  # an evaluation, which stays as it is
            told.append(F.cross_entropy(output, y, weight, ignore_index=2).item())
        loss = nn.CrossEntropyLoss(weight, ignore_index=2)(output, y)
        loss.backward()
        optimizer.step()

        twins.zero_grad()
        output = plain(x)
        expected = surrogate_loss(output, y, kind, weight, ignore_index=2)
        expected.backward()
        twins.step()
        torch.testing.assert_close(loss, expected)
        kept = y != 2
        errors = (output.argmax(1) != y)[kept].double().mean().item()
        watched.append((surrogate_loss(output[kept], y[kept], kind).item(), errors))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    change = training.changes[0]
    assert change.series == [pytest.approx(pair, rel=1e-5) for pair in watched]
    means = [sum(column) / 3 for column in zip(*change.series, strict=True)]
    assert str(change) == (
        f"{kind} loss of the margin in the place of cross entropy\n  over the last 3 training batches: surrogate loss "
        f"{means[0]:.4g}, 0-1 loss {means[1]:.4g}"
    )
    assert recorded == pytest.approx(told, rel=1e-6)  # what is recorded stays cross entropy
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) == F.cross_entropy(copy.deepcopy(model)(x), y)
    assert len(change.series) == 3  # evaluations are not among them


def test_what_was_watched_shows_the_surrogate_above_the_errors_and_both_falling(digits):
    model, training, optimizer = attached("surrogate_loss(kind='hinge')", make=torch.optim.Adam, lr=0.01)
    train(model, optimizer, digits, 150)
    series = training.changes[0].series
    assert all(surrogate >= errors for surrogate, errors in series)
    first, last = ([sum(column) / 16 for column in zip(*part, strict=True)] for part in (series[:16], series[-16:]))
    assert last[0] < 0.5 * first[0] and last[1] < 0.5 * first[1]


def test_only_the_last_batches_are_remembered(digits):
    model, training, _ = attached("surrogate_loss")
    assert str(training.changes[0]) == "hinge loss of the margin in the place of cross entropy"
    output = model(digits[0][:4])
    for _ in range(1100):
        F.cross_entropy(output, digits[1][:4])
    assert len(training.changes[0].series) == 1024


@pytest.mark.parametrize(
    "call",
    [
        lambda output, y: F.cross_entropy(output, y, label_smoothing=0.1),
        lambda output, y: F.cross_entropy(output, F.one_hot(y, 10).float()),
    ],
)
def test_a_surrogate_needs_classes(call, digits):
    model, training, _ = attached("surrogate_loss")
    with pytest.raises(ValueError) as error:
        call(model(digits[0][:32]), digits[1][:32])
    assert str(error.value) == (
        "surrogate_loss needs class indices as targets; this cross_entropy has probabilities or label smoothing. Give it "
        "classes without label_smoothing, or leave surrogate_loss out."
    )
    assert not training.changes[0].acted()


def test_a_surrogate_of_another_name():
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse("surrogate_loss(kind='zero_one')")
    assert str(error.value) == ("surrogate_loss(kind='zero_one'): kind must be one of square, log, hinge, exponential.")


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["mixup", "cutmix", "surrogate_loss", "logit_soft_cap", "z_loss"])
def test_a_training_that_is_over_is_not_kept_alive(text, digits):
    """Not even by what changes losses, which stands in torch itself and stays there."""
    kind = "images" if text == "cutmix" else "mlp"
    model, training, optimizer = attached(text, kind)
    train(model, optimizer, shaped(digits, kind), 2)
    gone = [weakref.ref(training), weakref.ref(model)]
    del model, training, optimizer
    gc.collect()
    assert [one() for one in gone] == [None, None]
    plain, _, _ = twin_of(kind)  # another training goes on as if nothing had been
    x, y = (part[:32] for part in shaped(digits, kind))
    assert F.cross_entropy(plain(x), y) == F.cross_entropy(copy.deepcopy(plain)(x), y)


# -- regression losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["surrogate_loss", "z_loss", "label_smoothing"])
def test_a_regression_is_told_that_nothing_acted(text, digits):
    x, y = digits[0][:32], F.one_hot(digits[1][:32], 10).float()
    model, training, optimizer = attached(text)
    plain, _, _ = twin_of()
    loss = F.mse_loss(model(x), y)
    assert loss == F.mse_loss(plain(x), y)
    loss.backward()
    optimizer.step()
    assert not training.changes[0].acted()


def test_what_is_capped_in_a_regression_is_told(digits):
    x, y = digits[0][:32], F.one_hot(digits[1][:32], 10).float()
    model, training, optimizer = attached("logit_soft_cap")
    (change,) = training.changes
    for loss, said in ((F.mse_loss, True), (F.cross_entropy, False)):
        loss(model(x), y).backward()
        optimizer.step()
        assert change.acted() and ("no loss of logits was seen" in change.sentence) == said


# -- soft cap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_logits_are_capped_in_training_and_evaluation(kind, digits):
    x, y = digits[0][:32], digits[1][:32]
    model, training, _ = attached("logit_soft_cap(cap=0.05)", kind)
    plain = network(kind)
    torch.testing.assert_close(model(x), soft_cap(plain(x), 0.05), rtol=0, atol=0)
    assert model(x).abs().max() <= 0.05 < plain(x).abs().max()
    assert model.state_dict().keys() == plain.state_dict().keys()
    F.cross_entropy(model(x), y).backward()
    F.cross_entropy(soft_cap(plain(x), 0.05), y).backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert training.changes[0].acted()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), soft_cap(plain(x), 0.05))
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), model(x))
        training.undo()
        assert torch.equal(model(x), plain(x))


def test_the_cap_says_where_it_is_and_wants_a_layer():
    _, training, _ = attached("logit_soft_cap")
    assert str(training.changes[0]) == "logits of 4 capped softly at 30"
    model = nn.LayerNorm(3)
    with pytest.raises(tt.NothingToDo) as error:
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("logit_soft_cap")
    assert str(error.value) == (
        "logit_soft_cap found nothing to act on: the model has no linear or convolution layer whose output could be its "
        "logits."
    )
    with pytest.raises(tt.RecipeError, match="logit_soft_cap: cap=0 must be positive: it is the bound of the logits"):
        tt.Recipe.parse("logit_soft_cap(cap=0)")


# -- z-loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_z_loss_joins_cross_entropy(reduction, digits):
    x, y = digits[0][:32], digits[1][:32]
    model, training, optimizer = attached("z_loss(factor=0.1)")
    plain, _, _ = twin_of()
    loss = F.cross_entropy(model(x), y, ignore_index=3, reduction=reduction)
    output = plain(x)
    expected = F.cross_entropy(output, y, ignore_index=3, reduction=reduction)
    expected = expected + z_loss(output, y, 0.1, ignore_index=3, reduction=reduction)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    optimizer.step()
    assert training.changes[0].acted()
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) == F.cross_entropy(copy.deepcopy(model)(x), y)


def test_z_loss_of_mixed_and_smoothed_targets(digits):
    """It does not look at targets, so it comes once, whatever becomes of them."""
    x, y = digits[0][:32], digits[1][:32]
    model, _training, _optimizer = attached("mixup(alpha=1.0), label_smoothing(smoothing=0.2), z_loss(factor=0.1)")
    plain, twin, _ = twin_of()
    mixed, mix = mixup(x, 1.0, generator=twin.generator("mixup", torch.device("cpu")))
    output = plain(mixed)
    expected = F.cross_entropy(output, mix.targets(y, 10) * 0.8 + 0.02) + z_loss(output, factor=0.1)
    torch.testing.assert_close(F.cross_entropy(model(x), y), expected)


def test_a_bad_factor():
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse("z_loss(factor=-1)")
    assert str(error.value) == ("z_loss: factor=-1 must be positive: it is the strength of the penalty. Try 1e-4.")
