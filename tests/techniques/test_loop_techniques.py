"""Techniques that act on the course of a training: early stopping, and averages of weights."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import trimtab as tt
from tests.conftest import network, train
from trimtab.techniques.early_stopping import choose, goal_of

KINDS = ["mlp", "normed"]


def attached(text: str = "", kind: str = "mlp"):
    model = network(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, tt.attach(model, optimizer).apply(text)


def validate(model: nn.Module, data: tuple) -> float:
    model.eval()
    with torch.no_grad():
        val_loss = F.cross_entropy(model(data[0][-128:]), data[1][-128:])
    model.train()
    return val_loss.item()


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple, epochs: int = 4) -> tuple[list, list]:
    """An ordinary script: some steps, an evaluation, and so on; gives the losses of both."""
    training, evaluation = [], []
    for _ in range(epochs):
        training += train(model, optimizer, data, 5)
        evaluation.append(validate(model, data))
    return training, evaluation


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# -- averages --------------------------------------------------------------------------------------------------------


def reference_losses(kind: str, data: tuple, decay: float | None) -> list[float]:
    """Evaluation losses under an average, in a loop written with torch's own tools."""
    model = network(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # in each step EMA's decay rises by our formula; torch's function takes it as a constant
    ema = lambda old, new, n: get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(old, new, n)  # noqa: E731
    average = AveragedModel(model, multi_avg_fn=ema if decay else None)
    inputs, losses = [], []
    for _ in range(4):
        for step in range(5):
            inputs.append(data[0][step * 32 : step * 32 + 32])
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[-1]), data[1][step * 32 : step * 32 + 32]).backward()
            optimizer.step()
            if decay or len(inputs) in (3, 5, 7, 9, 11, 13, 15, 17, 19):
                average.update_parameters(model)
        update_bn(inputs[-3:], average)
        losses.append(validate(average, data))
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "decay"), [("ema(decay=0.9, batches=3)", 0.9), ("swa(start=3, every=2, batches=3)", None)]
)
def test_evaluations_are_those_of_the_average_and_training_is_untouched(text, decay, kind, digits):
    plain, plain_optimizer, _ = attached("", kind)
    model, optimizer, training = attached(text, kind)
    told = []
    training.on("evaluation", lambda name, value: told.append(value) if name == "val loss" else None)
    before = torch.get_rng_state()
    losses, evaluations = loop(model, optimizer, digits)
    plain_losses, plain_evaluations = loop(plain, plain_optimizer, digits)
    assert losses == plain_losses  # bit for bit: the optimizer never saw the average
    assert all(abs(a - b) > 1e-3 for a, b in zip(evaluations, plain_evaluations, strict=True))
    expected = reference_losses(kind, digits, decay)
    torch.testing.assert_close(torch.tensor(evaluations), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    train(model, optimizer, digits, 1)  # closes the last evaluation
    assert told == pytest.approx(evaluations)
    train(plain, plain_optimizer, digits, 1)
    assert same(numbers(model), numbers(plain))  # running statistics too
    assert torch.equal(torch.get_rng_state(), before)
    assert training.changes[0].acted()
    assert len(training.changes[0].details) == (kind == "normed")


def test_running_statistics_are_averaged_where_none_are_gathered(digits):
    model, optimizer, _ = attached("ema(decay=0.9)", "normed")
    means = []
    for _ in range(6):
        train(model, optimizer, digits, 1)
        means.append(model[2].running_mean.double())
    average = means[0]
    for t, mean in enumerate(means[1:], start=2):
        decay = min(0.9, t / (t + 9))
        average = decay * average + (1 - decay) * mean
    validate(model, digits)
    torch.testing.assert_close(model[2].running_mean.double(), average, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["ema(decay=0.9)", "swa(start=1, every=1)"])
def test_a_checkpoint_after_an_evaluation_holds_the_average(text, digits):
    model, optimizer, _ = attached(text, "normed")
    loop(model, optimizer, digits, 1)
    file = io.BytesIO()
    torch.save(model, file)
    averaged = numbers(model)
    expected = model.eval()(digits[0])
    train(model.train(), optimizer, digits, 1)
    assert not torch.equal(averaged["1.weight"], model[1].weight)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False).eval()(digits[0]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("text", ["ema(decay=0.9)", "swa(start=1, every=1)"])
def test_undo_while_the_average_is_in(text, digits):
    plain, plain_optimizer, _ = attached("", "normed")
    model, optimizer, training = attached(text, "normed")
    loop(plain, plain_optimizer, digits, 2)
    loop(model, optimizer, digits, 2)
    assert not same(numbers(model), numbers(plain))
    training.undo()
    assert same(numbers(model), numbers(plain))
    assert loop(model, optimizer, digits, 1) == loop(plain, plain_optimizer, digits, 1)


def test_before_its_start_evaluations_are_as_without(digits):
    model, optimizer, training = attached("swa(start=11, every=1)")
    plain, plain_optimizer, _ = attached()
    assert loop(model, optimizer, digits, 2) == loop(plain, plain_optimizer, digits, 2)
    assert not training.changes[0].acted()
    assert loop(model, optimizer, digits, 1)[1] != loop(plain, plain_optimizer, digits, 1)[1]
    assert training.changes[0].acted()


def test_an_evaluation_between_forward_and_backward(digits):
    losses = []
    for text in ("", "ema(decay=0.5)"):
        model, optimizer, _ = attached(text)
        listed = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(digits[0][:32]), digits[1][:32])
            validate(model, digits)
            loss.backward()
            optimizer.step()
            listed.append(loss.item())
        losses.append(listed)
    assert losses[0] == losses[1]


def test_training_in_evaluation_mode(digits):
    # fine-tuning with frozen norms; evaluation is then what happens without gradients
    losses, evaluations = [], []
    for text in ("", "ema(decay=0.5)"):
        model, optimizer, _ = attached(text, "normed")
        model.eval()
        losses.append([])
        for _ in range(4):
            losses[-1] += train(model, optimizer, digits, 2)
            with torch.no_grad():
                val_loss = F.cross_entropy(model(digits[0]), digits[1])
        evaluations.append(val_loss.item())
    assert losses[0] == losses[1]
    assert evaluations[0] != evaluations[1]


def test_evaluation_with_gradients_on(digits):
    losses, evaluations = [], []
    for text in ("", "ema(decay=0.9)"):
        model, optimizer, _ = attached(text)
        losses.append([])
        for _ in range(3):
            losses[-1] += train(model.train(), optimizer, digits, 3)
            evaluations.append(F.cross_entropy(model.eval()(digits[0]), digits[1]).item())
    assert losses[0] == losses[1]
    assert evaluations[:3] != evaluations[3:]


def test_inside_inference_mode(digits):
    model, optimizer, _ = attached("swa(start=1, every=1)", "normed")
    plain, plain_optimizer, _ = attached("", "normed")
    for _ in range(2):
        assert train(model, optimizer, digits, 3) == train(plain, plain_optimizer, digits, 3)
        with torch.inference_mode():
            model.eval()(digits[0])
        model.train()


def test_weights_that_the_script_loads_stay(digits):
    model, optimizer, _ = attached("ema(decay=0.9)")
    loop(model, optimizer, digits, 2)
    other = network()
    nn.init.constant_(other[0].bias, 3.0)
    model.load_state_dict(other.state_dict())  # after the evaluation, with the average in
    expected = F.cross_entropy(other(digits[0][:32]), digits[1][:32]).item()
    assert train(model, optimizer, digits, 1) == [expected]


def test_two_models_and_two_optimizers(digits):
    evaluations = []
    for text in ("", "ema(decay=0.9)"):
        body, head = network()[:3], network()[3:]
        optimizers = [torch.optim.SGD(body.parameters(), lr=0.1), torch.optim.Adam(head.parameters())]
        training = tt.attach([body, head], optimizers).apply(text)
        losses = []
        for _ in range(3):
            for _ in range(3):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss = F.cross_entropy(head(body(digits[0][:64])), digits[1][:64])
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                losses.append(loss.item())
            with torch.no_grad():
                val_loss = F.cross_entropy(head(body(digits[0])), digits[1]).item()
        evaluations.append((losses, val_loss))
        assert training.step == 9
    assert evaluations[0][0] == evaluations[1][0]
    assert evaluations[0][1] != evaluations[1][1]


class Masked(nn.Module):
    """A model that takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layers(x * mask)


def test_statistics_of_a_model_of_two_inputs_are_averaged(digits):
    model = Masked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = tt.attach(model, optimizer).apply("swa(start=1, every=1)")
    assert training.changes[0].details == (
        "Masked: BatchNorm's statistics are averaged, since it does not take exactly one input",
    )
    means = []
    for _ in range(3):
        F.cross_entropy(model(digits[0], torch.ones(64)), digits[1]).backward()
        optimizer.step()
        means.append(model.layers[1].running_mean.clone())
    with torch.no_grad():
        model.eval()(digits[0], torch.ones(64))
    torch.testing.assert_close(model.layers[1].running_mean, torch.stack(means).mean(0), rtol=1e-6, atol=1e-6)


def test_a_norm_that_waits_for_other_processes_is_not_called_again():
    model = nn.Sequential(nn.Linear(2, 3), tt.nn.SyncBatchNorm(3))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("swa")
    assert training.changes[0].details == (
        "Sequential: BatchNorm's statistics are averaged, since a SyncBatchNorm waits for all processes, which may not "
        "all evaluate",
    )


def test_a_compiled_model(digits):
    evaluations = []
    for text in ("", "swa(start=1, every=1)"):
        model, optimizer, _ = attached(text, "normed")
        compiled = torch.compile(model, backend="eager")
        evaluations.append(loop(compiled, optimizer, digits, 2))
        torch.compiler.reset()
    assert evaluations[0][0] == evaluations[1][0]
    assert evaluations[0][1] != evaluations[1][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ema(decay=1)", "ema: decay=1 must lie strictly between 0 and 1"),
        ("ema(batches=-1)", "ema: batches=-1 must be a whole number of inputs to keep, or 0."),
        ("swa(start=0)", "swa: start=0 must be a whole number of steps, at least 1."),
        ("swa(batches=0.5)", "swa: batches=0.5 must be a whole number."),
        (
            "ema, swa",
            "ema cannot be combined with swa: both decide which weights are evaluated, or are left at the end.",
        ),
        (
            "early_stopping, ema",
            "ema cannot be combined with early_stopping: both decide which weights are evaluated",
        ),
        (
            "swa, early_stopping",
            "swa cannot be combined with early_stopping: both decide which weights are evaluated",
        ),
        ("early_stopping(goal='low')", "goal='low' must be 'min', 'max', or '' to read it from the metric's name."),
        ("early_stopping(patience=1)", "patience=1 must be at least 2 for criterion='statistical'."),
    ],
)
def test_errors(text, message):
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse(text)
    assert message in str(error.value)


# -- early stopping --------------------------------------------------------------------------------------------------

PATIENT = "early_stopping(patience=2, criterion='patience', metric='val loss')"


def overfit(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple, epochs: int = 8) -> tuple[list, list]:
    """A training whose held-out loss rises: its labels are random. Gives the weights at each evaluation, and what it said."""
    labels = data[1][torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    states, values = [], []
    for _ in range(epochs):
        train(model, optimizer, (data[0][:256], labels[:256]), 8)
        states.append(numbers(model))
        values.append(validate(model, (data[0], labels)))
    return states, values


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_stop_the_best_weights_are_back_and_stay(kind, digits):
    plain, plain_optimizer, _ = attached("", kind)
    states, values = overfit(plain, plain_optimizer, digits)
    best = min(range(8), key=values.__getitem__)
    model, optimizer, training = attached(PATIENT, kind)
    treated_states, treated_values = overfit(model, optimizer, digits)
    stop = best + 2  # the evaluation at which patience ends
    assert stop < 6, "the plain run must turn early, or this shows nothing"
    assert treated_values[: stop + 1] == values[: stop + 1]
    assert all(same(state, states[best]) for state in treated_states[stop + 1 :])
    assert treated_values[stop + 1 :] == [values[best]] * (7 - stop)
    assert str(training.changes[0]) == (
        f"early stopping after 2 evaluations without improvement: stopped at step {8 * stop + 8}, "
        f"best val loss {values[best]:.4g} at step {8 * best + 8}"
    )


def test_buffers_that_a_batch_without_a_step_changed_are_put_back(digits):
    model, optimizer, _ = attached(PATIENT, "normed")
    overfit(model, optimizer, digits)
    best = numbers(model)
    model.train()(digits[0])
    assert not same(numbers(model), best)
    validate(model, digits)
    assert same(numbers(model), best)


def test_undo_lets_the_training_go_on(digits):
    model, optimizer, training = attached(PATIENT)
    overfit(model, optimizer, digits)
    best = numbers(model)
    training.undo()
    train(model, optimizer, digits, 1)
    assert not same(numbers(model), best)


def test_several_optimizers_and_a_scheduler(digits):
    model = network()
    optimizers = [torch.optim.Adam(model[:2].parameters(), 0.01), torch.optim.SGD(model[2:].parameters(), 0.1)]
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9) for optimizer in optimizers]
    training = tt.attach(model, optimizers).apply("early_stopping(patience=1, criterion='patience')")
    states = []
    for score in (0.1, 0.3, 0.2, 0.4, 0.5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(model(digits[0]), digits[1]).backward()
        for optimizer in optimizers:
            optimizer.step()
        states.append(numbers(model))
        training.evaluated("score", score)
        for scheduler in schedulers:
            scheduler.step()
    assert not same(states[1], states[2])
    assert same(states[3], states[1]) and same(states[4], states[1])
    assert "stopped at step 3, best score 0.3 at step 2" in str(training.changes[0])


def test_noise_does_not_stop_it_and_getting_worse_does(digits):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(80, generator=generator)
    for slope, stops in ((0.0, False), (-0.02, False), (0.3, True)):
        model, optimizer, training = attached("early_stopping")
        for step in range(80):
            train(model, optimizer, digits, 1)
            training.evaluated("val loss", float(noise[step] + slope * max(0, step - 20)))
        assert ("stopped at step" in training.changes[0].outcome()) is stops
        assert training.changes[0].outcome().startswith("not stopped, best val loss") is not stops


def test_without_evaluations_it_has_not_acted(digits):
    model, optimizer, training = attached("early_stopping")
    train(model, optimizer, digits, 3)
    with torch.no_grad():
        train_loss = F.cross_entropy(model(digits[0]), digits[1])
    train(model, optimizer, digits, 1)
    assert train_loss.isfinite() and not training.changes[0].acted()
    assert str(training.changes[0]).endswith("(level 0.05)")
    validate(model, digits)
    train(model, optimizer, digits, 1)
    assert training.changes[0].acted()


def test_the_record_tells_what_came_of_it(digits):
    model, optimizer, training = attached(PATIENT)
    with training.watch() as recorder:
        overfit(model, optimizer, digits)
    (told,) = recorder.record().applied
    assert told == str(training.changes[0])
    assert "stopped at step" in told


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["val loss", "val accuracy"], "", "val accuracy"),
        (["test loss", "val loss"], "", "val loss"),
        (["test accuracy", "printed val accuracy"], "", "printed val accuracy"),
        (["val loss", "printed val accuracy"], "", "printed val accuracy"),
        (["val loss", "printed loss", "metric iou"], "", "metric iou"),
        (["train loss", "printed train accuracy", "printed loss"], "", ""),
        (["val loss", "val accuracy"], "val loss", "val loss"),
        (["printed val f1", "val loss"], "val f1", "printed val f1"),
        (["val loss"], "test loss", ""),
    ],
)
def test_the_metric_that_is_chosen(names, wanted, chosen):
    assert choose(names, wanted) == chosen


def test_its_goal_is_read_from_the_name():
    lower = ["val loss", "printed test error", "printed val rmse", "printed perplexity"]
    assert {goal_of(name) for name in lower} == {"min"}
    assert {goal_of(name) for name in ("val accuracy", "printed f1", "metric iou", "score")} == {"max"}


def test_deepcopy_of_a_stopped_model_is_on_its_own(digits):
    model, optimizer, _ = attached(PATIENT)
    overfit(model, optimizer, digits)
    twin = copy.deepcopy(model)
    before = numbers(twin)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1), digits, 1)
    assert not same(numbers(twin), before)
