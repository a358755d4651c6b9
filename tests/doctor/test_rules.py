"""Every rule on a real short training that has its problem, and all of them on trainings that have none."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab.doctor import diagnose, judge
from trimtab.doctor.curves import held_out
from trimtab.doctor.rule import rule
from trimtab.doctor.rules import OWN
from trimtab.doctor.rules.overfitting import overfitting
from trimtab.recipe import Recipe
from trimtab.records import Profile, RunRecord, Series, TrainingRecord
from trimtab.testing.rules import check_rule, healthy


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target)  # looked up when it is called, as in a script


@pytest.fixture(autouse=True)
def any_budget(monkeypatch):
    """On a busy machine a sample is dear, and a rule would see fewer of them: here the clock decides nothing."""
    monkeypatch.setattr("trimtab.watching.budget.SHARE", float("inf"))


def watched(
    model: nn.Module,
    data: tuple,
    *,
    lr: float = 0.05,
    steps: int = 150,
    held_out: tuple | None = None,
    make=torch.optim.SGD,
    loss=cross_entropy,
    **options,
) -> RunRecord:
    """Train on shuffled batches of 32 with an evaluation every 10 steps, watched."""
    x, y = data
    optimizer = make(model.parameters(), lr=lr, **options)
    generator = torch.Generator().manual_seed(0)
    with tt.attach(model, optimizer).watch() as recorder:
        for step in range(steps):
            rows = torch.randperm(len(x), generator=generator)[:32]
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
            if held_out is not None and step % 10 == 9:
                with torch.no_grad():
                    val_loss = loss(model(held_out[0]), held_out[1])
                assert val_loss is not None
    return recorder.record()


def mlp(depth: int = 2, width: int = 32, activation=nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(nn.Linear(64, width), activation(), *hidden, nn.Linear(width, 10))


def problems(run: RunRecord, least: str = "warning") -> dict:
    grave = (
        ("error",) if least == "error" else ("error", "warning") if least == "warning" else ("error", "warning", "info")
    )
    return {finding.problem: finding for finding in diagnose(run) if finding.severity in grave}


def test_vanishing_gradient_in_a_deep_sigmoid_network(digits):
    found = problems(watched(mlp(7, activation=nn.Sigmoid), digits, momentum=0.9))
    finding = found["vanishing_gradient"]
    assert finding.severity == "error"
    assert finding.where == "0"
    assert finding.title == "The gradient vanishes on its way to layer 0 (Linear)"
    assert finding.evidence[0].numbers["ratio"] < 1e-3
    assert finding.remedies[0] == "batch_norm" and finding.remedies[-1] == "muon"


def test_no_vanishing_gradient_once_it_is_normalized(digits):
    model = mlp(7, activation=nn.Sigmoid)
    tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.05)).apply("batch_norm")
    assert "vanishing_gradient" not in problems(watched(model, digits, momentum=0.9), "info")


def test_nan_source_names_the_first_step_and_the_first_layer(digits):
    x, y = digits
    x = x.clone()
    x[5, 3] = float("nan")
    run = watched(mlp(), (x[:16], y[:16]), steps=12)
    finding = problems(run)["nan_source"]
    assert finding.evidence[0].numbers["step"] == 0
    assert finding.where == "0"


def test_dead_relu(digits):
    model = mlp()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    finding = problems(watched(model, digits))["dead_relu"]
    assert finding.severity == "error"
    assert finding.where == "2"
    assert finding.title == "100% of the units of layer 2 (Linear) are dead"


def test_dead_units_that_cost_nothing_are_a_note(digits):
    """More than half of the units are dead, and the others learn it all."""
    model = mlp(2, 64)
    with torch.no_grad():
        model[2].bias[:36] = -100.0
    finding = problems(watched(model, digits, lr=0.1, steps=100), "info")["dead_relu"]
    assert finding.evidence[1].numbers["learned"] < 0.9
    assert finding.severity == "info"


def test_lr_too_high(digits):
    finding = problems(watched(mlp(), digits, lr=8.0))["lr_too_high"]
    assert finding.where == "optimizer"
    assert "(8)" in finding.title
    assert finding.remedies[0] == "lr_scale(factor=0.1)" and finding.remedies[-1] == "adam"


class Patches(nn.Module):
    """A transformer with its norms behind the residuals: each row of a digit is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, 10)

    def forward(self, x):
        return self.out(self.layers(self.into(x.view(-1, 8, 8))).mean(1))


def test_a_slow_learner_has_no_rate_that_is_too_high(digits):
    """The first step of Adam moves small weights by much of their size, and the loss stays where it began: more would be better."""
    model = mlp(4, activation=nn.Tanh)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    run = watched(model, digits, lr=1e-3, steps=30, make=torch.optim.Adam)
    training = run.trainings[0]
    assert training.profiles["update_ratio"].array[0].max() > 0.03
    assert training.get("loss").last > 0.9 * training.get("loss").values[0]
    assert "lr_too_high" not in problems(run, "info")


@pytest.mark.parametrize("make, lr, options", [(torch.optim.Adam, 0.1, {}), (torch.optim.SGD, 1.0, {"momentum": 0.9})])
def test_a_rate_that_throws_the_loss_up_is_too_high(make, lr, options, digits):
    torch.manual_seed(0)
    finding = problems(watched(Patches(), digits, make=make, lr=lr, **options))["lr_too_high"]
    numbers = finding.evidence[0].numbers
    assert numbers["peak"] > 1.1 * numbers["before"] and numbers["step"] < 20
    assert any(remedy.startswith("warmup") for remedy in finding.remedies)


def test_a_loss_that_is_summed_up_has_no_known_constant(digits):
    """The targets' variance says nothing of an error that is a sum over pixels: a training is not judged by it."""
    x, _ = digits

    def summed(output, target):
        return nn.functional.mse_loss(output, target, reduction="sum") / len(output)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))
    run = watched(model, (x, x), lr=2e-3, steps=150, make=torch.optim.Adam, loss=summed)
    assert "constant_loss" not in run.trainings[0].facts
    assert problems(run) == {}


def test_a_new_head_for_other_classes_is_no_harm(digits):
    """The loss is that of another task from there on; the watch goes on, and nothing was thrown up by a step."""
    x, y = digits
    model = mlp()
    first, second = y < 3, y >= 3
    generator = torch.Generator().manual_seed(0)
    with tt.attach(model, torch.optim.Adam(model.parameters(), lr=3e-3)).watch() as recorder:
        for data, head in (((x[first], y[first]), nn.Linear(32, 3)), ((x[second], y[second] - 3), nn.Linear(32, 7))):
            model[4] = head
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            recorder.samplers[0].training().join(optimizer)
            for _ in range(150):
                rows = torch.randperm(len(data[0]), generator=generator)[:32]
                optimizer.zero_grad()
                cross_entropy(model(data[0][rows]), data[1][rows]).backward()
                optimizer.step()
    run = recorder.record()
    assert recorder.guard.off == "" and run.trainings[0].steps == 300
    assert problems(run) == {}


def test_a_classifier_that_also_rebuilds_its_input_is_watched(digits):
    x, y = digits

    def both(output, target):
        return cross_entropy(output[:, :10], target[:, 0].long()) + nn.functional.mse_loss(
            output[:, 10:], target[:, 1:]
        )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 74))
    run = watched(model, (x, torch.cat([y[:, None].float(), x], 1)), lr=0.1, steps=60, loss=both)
    assert run.trainings[0].steps == 60
    assert problems(run) == {}


def test_lr_too_low(digits):
    found = problems(watched(mlp(), digits, lr=1e-3, steps=600))
    assert set(found) == {"lr_too_low"}
    assert found["lr_too_low"].evidence[0].numbers["movement"] < 0.05


def test_unscaled_inputs(digits):
    x, y = digits
    scales = torch.ones(64)
    scales[20] = 300.0
    found = problems(watched(mlp(), (x * scales, y), lr=0.05))
    assert found["unscaled_inputs"].where == "data"
    assert found["unscaled_inputs"].severity == "error"
    assert found["unscaled_inputs"].remedies[0] == "standardize_inputs"
    assert found["unscaled_inputs"].remedies[3:] == ("whiten_inputs", "adagrad", "adam")
    evidence = found["unscaled_inputs"].evidence[0]
    assert evidence.numbers["condition"] > evidence.numbers["ratio"] ** 2 / 10
    assert "Measured, with a 1 for the bias, it is" in evidence.text
    assert "input_condition" in evidence.shows


def in_order(data: tuple, kind: str) -> list[torch.Tensor]:
    """Rows of one epoch of batches: sorted by class, batches of one class in random order, or as the data come."""
    x, y = data
    rows = torch.arange(len(x)) if kind == "as they come" else y.argsort(stable=True)
    batches = list(rows.split(32))
    if kind == "blocks":
        batches = [batches[i] for i in torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))]
    return batches


def epochs(model: nn.Module, data: tuple, batches: list[torch.Tensor], count: int, lr: float = 0.05) -> RunRecord:
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with tt.attach(model, optimizer).watch(every=1) as recorder:
        for _ in range(count):
            for rows in batches:
                optimizer.zero_grad()
                cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                val_loss = cross_entropy(model(x), y)
            assert val_loss is not None
    return recorder.record()


@pytest.mark.parametrize("kind", ["sorted", "blocks"])
def test_unshuffled_data(kind, digits):
    norm = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    for model in (mlp(), norm):
        finding = problems(epochs(model, digits, in_order(digits, kind), 5))["unshuffled_data"]
        assert finding.severity == "error"
        assert finding.where == "data"
        assert finding.title.endswith("shuffle them in the data loader")
        assert finding.remedies == ()
        assert finding.evidence[0].numbers["grouping"] > 0.7
        assert finding.evidence[0].numbers["p"] < 1e-100
        assert finding.evidence[2].numbers["held_out"] > 1.5
        assert ("batch normalization" in finding.cause) == (model is norm)


def test_ordered_data_that_did_no_harm_are_a_note(digits):
    """What is measured decides: by small steps, the order of classes is averaged away."""
    run = epochs(nn.Linear(64, 10), digits, in_order(digits, "sorted"), 5)
    training = run.trainings[0]
    steps = training.get("loss").steps
    learned = {
        "loss": Series(steps=steps, values=tuple(2.3 * 0.95**s for s in steps)),
        "val loss": Series(steps=(steps[-1],), values=(0.02,)),
    }
    calm = msgspec.structs.replace(training, series={**training.series, **learned})
    assert problems(msgspec.structs.replace(run, trainings=(calm,)), "info")["unshuffled_data"].severity == "info"


def test_data_that_come_mixed_need_no_shuffling(digits):
    """The digits as they come are ten classes in turn."""
    run = epochs(mlp(), digits, in_order(digits, "as they come"), 12, lr=0.1)
    assert "label_grouping" in run.trainings[0].series
    assert "unshuffled_data" not in problems(run, "info")


def test_overfitting(digits):
    x, y = digits
    noisy = torch.where(torch.rand(512, generator=torch.Generator().manual_seed(3)) < 0.4, (y + 3) % 10, y)
    run = watched(mlp(2, 128), (x[:64], noisy[:64]), lr=0.1, steps=600, held_out=(x[64:], noisy[64:]), momentum=0.9)
    finding = problems(run)["overfitting"]
    assert finding.evidence[0].numbers["end"] > 1.1 * finding.evidence[0].numbers["best"]
    assert finding.evidence[1].numbers["train_accuracy"] > finding.evidence[1].numbers["held_out_accuracy"] + 0.08


def memorised(digits, each=lambda model, value: None, end=lambda model: None, say=None) -> RunRecord:
    """A training on few samples with wrong labels, evaluated by hand on others; ``each`` meets the model after every evaluation, and
    ``end`` when training is over. Without ``say`` the loss is measured, else it is a number that the script prints."""
    x, y = digits
    noisy = torch.where(torch.rand(512, generator=torch.Generator().manual_seed(3)) < 0.4, (y + 3) % 10, y)
    model = mlp(2, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    with tt.attach(model, optimizer).watch() as recorder:
        for step in range(300):
            rows = torch.randperm(64, generator=generator)[:32]
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), noisy[rows]).backward()
            optimizer.step()
            if step % 10 == 9:
                with torch.no_grad():
                    output = model(x[64:])
                    if say is None:
                        value = cross_entropy(output, noisy[64:]).item()
                    else:
                        value = -output.log_softmax(1)[range(448), noisy[64:]].mean().item()
                        recorder.line(say.format(value))
                each(model, value)
        end(model)
    return recorder.record()


@pytest.mark.parametrize(
    "say, name", [("epoch 3: mse {:.4f}", "printed mse"), ("held out: R2 -{:.4f}", "printed val r2")]
)
def test_overfitting_is_seen_in_the_number_that_judges(say, name, digits):
    """Whoever said it, and in its own direction."""
    run = memorised(digits, say=say)
    assert run.metric.name == name
    finding = problems(run)["overfitting"]
    assert finding.evidence[0].shows == (name, "loss")
    assert ("lowest" if name == "printed mse" else "highest") in finding.evidence[0].text


def test_a_number_that_is_counted_is_known_to_a_step():
    """An accuracy that stands still has no noise of its own, and is not known without error for it."""
    counted = [80, 84, 88, 90, 90, 84] + [80] * 24
    series = {
        "printed val accuracy": Series(steps=tuple(range(1, 31)), values=tuple(n / 128 for n in counted)),
        "loss": Series(steps=tuple(range(1, 31)), values=tuple(1 / step for step in range(1, 31))),
    }
    training = TrainingRecord(name="training", model="Net", steps=30, series=series)
    (finding,) = overfitting(training)
    assert "10% lower and 20 standard errors away" in finding.evidence[0].text
    jitter = tuple(n / 128 + 1e-12 * (-1) ** step for step, n in enumerate(counted))
    series["printed val accuracy"] = Series(steps=tuple(range(1, 31)), values=jitter)
    (finding,) = overfitting(training)
    assert "10% lower and more than 100 standard errors away" in finding.evidence[0].text


def test_a_number_that_grows_better_the_smaller_it_is_may_have_any_name(digits):
    """The user says which way is better."""
    run = memorised(digits, say="validation score {:.4f}")
    assert "overfitting" not in problems(run, "info")
    turned = msgspec.structs.replace(run, metric=msgspec.structs.replace(run.metric, goal="min"))
    assert "overfitting" in problems(turned)


class Best:
    """The best weights of a run, kept as scripts keep them."""

    def __init__(self, path=None) -> None:
        self.value, self.weights, self.path = float("inf"), {}, path

    def __call__(self, model: nn.Module, value: float) -> None:
        if value < self.value:
            self.value, self.weights = value, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            if self.path is not None:
                torch.save(self.weights, self.path)

    def put_back(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)


@pytest.mark.parametrize("how", ["put back", "saved", "evaluated again"])
def test_a_script_that_keeps_its_best_weights_does_not_overfit(how, digits, tmp_path):
    best = Best(tmp_path / "best.pt" if how == "saved" else None)
    assert "overfitting" in problems(memorised(digits))
    if how == "put back":
        run = memorised(digits, each=best, end=best.put_back)
    elif how == "saved":
        run = memorised(digits, each=best)
    else:
        run = memorised(digits, each=best)
        training = run.trainings[0]
        last = Series(steps=(training.steps,), values=(best.value * 1.01,))
        series = {**training.series, "printed test loss": last}
        run = msgspec.structs.replace(run, trainings=(msgspec.structs.replace(training, series=series),))
    assert "overfitting" not in problems(run, "info")


def test_a_script_that_saves_every_time_keeps_its_last_weights(digits, tmp_path):
    run = memorised(digits, each=lambda model, value: torch.save(model.state_dict(), tmp_path / "last.pt"))
    assert "overfitting" in problems(run)


def test_a_held_out_loss_that_rises_is_a_note_where_another_number_judges(digits):
    run = memorised(digits)
    training = run.trainings[0]
    steps = held_out(training, "loss")[1].steps
    steady = Series(steps=steps, values=tuple(0.9 + 0.01 * (i % 3) for i in range(len(steps))))
    series = {name: one for name, one in training.series.items() if "accuracy" not in name} | {"printed val f1": steady}
    calm = msgspec.structs.replace(training, series=series)
    (finding,) = diagnose(msgspec.structs.replace(run, trainings=(calm,), metric=None))
    assert (finding.problem, finding.severity) == ("overfitting", "info")
    assert finding.evidence[-1].text == "The validation f1, which judges the run, did not get worse."


def exploding_record() -> RunRecord:
    """A record of a training whose gradient spikes at three steps and whose loss is thrown back by them."""
    steps = tuple(range(200))
    spikes = {60: 50.0, 90: 80.0, 91: 30.0}
    loss = [2.3 - 0.02 * s if s < 60 else 1.8 for s in steps]
    moves = [(0.4 if s in spikes else 0.01, 0.01) for s in steps]
    return run_of(
        series={
            "loss": Series(steps=steps, values=tuple(loss)),
            "grad_norm": Series(steps=steps, values=tuple(spikes.get(s, 1.0) for s in steps)),
        },
        profiles={"update_ratio": Profile(names=("recur.weight", "head.weight"), steps=steps, rows=tuple(moves))},
        facts={"constant_loss": 2.3},
    )


def run_of(**parts) -> RunRecord:
    return RunRecord(id="r", subject="s", trainings=(TrainingRecord(name="training", model="Net", steps=200, **parts),))


def test_exploding_gradient():
    finding = problems(exploding_record())["exploding_gradient"]
    assert finding.where == "recur"
    assert finding.evidence[0].numbers == {"median": 1.0, "largest": 80.0, "step": 90.0, "spikes": 3.0}
    assert finding.remedies[0] == "clip_norm(max_norm=1.0)"


def test_an_explosion_that_throws_the_loss_up_late_is_no_rate():
    """Its large steps are rare, and much was learned before: the cause is the gradient."""
    run = exploding_record()
    loss = run.trainings[0].series["loss"]
    thrown = Series(
        steps=loss.steps, values=tuple(9.0 if 60 < s < 70 else v for s, v in zip(loss.steps, loss.values, strict=True))
    )
    training = msgspec.structs.replace(run.trainings[0], series={**run.trainings[0].series, "loss": thrown})
    found = diagnose(msgspec.structs.replace(run, trainings=(training,)))
    assert [finding.problem for finding in found] == ["exploding_gradient"]
    assert found[0].consequences == ()


def test_spikes_that_move_no_weight_are_no_explosion():
    run = exploding_record()
    profile = run.trainings[0].profiles["update_ratio"]
    calm = msgspec.structs.replace(profile, rows=tuple((0.01, 0.01) for _ in profile.rows))
    training = msgspec.structs.replace(run.trainings[0], profiles={"update_ratio": calm})
    assert "exploding_gradient" not in problems(msgspec.structs.replace(run, trainings=(training,)), "info")


def test_spikes_without_harm_are_no_explosion():
    run = exploding_record()
    steps = run.trainings[0].series["loss"].steps
    healed = Series(steps=steps, values=tuple(2.3 * 0.97**s for s in steps))
    series = {**run.trainings[0].series, "loss": healed}
    training = msgspec.structs.replace(run.trainings[0], series=series)
    assert "exploding_gradient" not in problems(msgspec.structs.replace(run, trainings=(training,)), "info")


HEALTHY = {
    "sgd": lambda data: watched(mlp(), data, lr=0.1, steps=400, momentum=0.9, held_out=data),
    "adam": lambda data: watched(mlp(), data, lr=3e-3, steps=400, make=torch.optim.Adam, held_out=data),
    "tanh": lambda data: watched(mlp(4, activation=nn.Tanh), data, lr=0.05, steps=400, momentum=0.9),
    "adadelta at rate 1": lambda data: watched(mlp(), data, lr=1.0, steps=400, make=torch.optim.Adadelta),
    "batch norm": lambda data: watched(
        nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)), data, lr=0.1, steps=300
    ),
    "deep relu": lambda data: watched(mlp(8, 64), data, lr=3e-3, steps=400, make=torch.optim.Adam),
    "logistic regression at rate 0.5": lambda data: watched(nn.Linear(64, 10), data, lr=0.5, steps=300),
    "negative loss": lambda data: watched(
        nn.Linear(64, 10), data, lr=0.01, steps=300, loss=lambda out, y: nn.functional.cross_entropy(out, y) - 5.0
    ),
    "label smoothing": lambda data: watched(
        mlp(), data, lr=0.1, steps=300, loss=lambda out, y: nn.functional.cross_entropy(out, y, label_smoothing=0.2)
    ),
}


@pytest.mark.parametrize("rule", OWN, ids=lambda rule: rule.problem)
def test_a_rule_holds_what_all_rules_hold(rule):
    check_rule(rule, silent=[healthy()])


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_trainings_need_nothing(name, digits):
    torch.manual_seed(0)
    assert problems(HEALTHY[name](digits)) == {}


def test_a_training_that_learns_nothing_for_no_known_reason(digits):
    x, y = digits
    shuffled = y[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    found = problems(watched(nn.Linear(64, 10), (x, shuffled), lr=0.01, steps=100))
    assert set(found) == {"slow_convergence"}


def test_a_rule_that_crashes_is_a_result(digits, monkeypatch):
    @rule(needs={})
    def broken(training):
        raise ZeroDivisionError("of purpose")

    monkeypatch.setattr(judge, "all_rules", lambda: (broken,))
    (finding,) = diagnose(run_of())
    assert (finding.problem, finding.where, finding.severity) == ("rule_error", "broken", "info")
    assert "ZeroDivisionError: of purpose" in finding.evidence[0].text


def test_every_remedy_is_a_recipe(digits):
    runs = [
        watched(mlp(7, activation=nn.Sigmoid), digits),
        watched(mlp(), digits, lr=8.0),
        watched(mlp(), digits, lr=1e-3, steps=600),
        exploding_record(),
    ]
    remedies = {remedy for run in runs for finding in diagnose(run) for remedy in finding.remedies}
    assert len(remedies) > 8
    for remedy in remedies:
        Recipe.parse(remedy)


def test_several_trainings_are_told_apart():
    one = exploding_record().trainings[0]
    run = RunRecord(
        id="r", subject="s", trainings=(one, msgspec.structs.replace(one, name="training 2", model="Other"))
    )
    assert [finding.training for finding in diagnose(run)] == ["training", "training 2"]


@pytest.mark.parametrize("apart, said", [(True, "folds 1, 3 of 3"), (False, "trainings 1, 3 of 3")])
def test_what_is_found_in_several_folds_is_said_once(apart, said):
    sick, well = exploding_record().trainings[0], TrainingRecord(name="training 2", model="Net", steps=200)
    folds = [
        msgspec.structs.replace(
            one, name=f"training {i + 1}", began=apart * i * 200, ended=apart * (i + 1) * 200 or 600
        )
        for i, one in enumerate((sick, well, sick))
    ]
    (finding,) = diagnose(RunRecord(id="r", subject="s", trainings=tuple(folds)))
    assert finding.title == f"The gradient explodes, in {said}"
    assert finding.training == "training 1"


def test_a_training_that_never_stepped_is_no_fold():
    trained = exploding_record().trainings[0]
    thrown_away = msgspec.structs.replace(trained, name="training 1", steps=0, began=0, ended=0, series={})
    run = RunRecord(id="r", subject="s", trainings=(thrown_away, msgspec.structs.replace(trained, name="training 2")))
    (finding,) = diagnose(run)
    assert (finding.title, finding.training) == ("The gradient explodes", "training 2")


def test_what_follows_from_a_cause_is_no_finding_of_its_own(digits):
    """The rate is too high, the gradient explodes, the loss is not finite: one cause, in causal order, with the cause's remedies."""
    x, _ = digits

    def squared(output, target):
        return nn.functional.mse_loss(output, target)

    torch.manual_seed(0)
    run = watched(nn.Linear(64, 64), (x, x), lr=300.0, steps=60, loss=squared)
    (finding,) = diagnose(run)
    assert (finding.problem, finding.severity) == ("lr_too_high", "error")
    assert "nan_source" in finding.consequences
    assert "the loss is not a finite number from step" in finding.evidence[-1].text
    assert finding.remedies[0] == "lr_scale(factor=0.1)"


def test_no_remedy_is_what_the_script_has(digits):
    """A transformer has norms, and this script Adam, a schedule, and clipping."""

    torch.manual_seed(0)
    model, (x, y) = Patches(), digits
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
    generator = torch.Generator().manual_seed(0)
    with tt.attach(model, optimizer).watch() as recorder:
        for _ in range(100):
            rows = torch.randperm(len(x), generator=generator)[:32]
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            schedule.step()
    remedies = " ".join(problems(recorder.record())["lr_too_high"].remedies)
    assert remedies.startswith("lr_scale(factor=0.1)")
    for there in ("adam", "batch_norm", "clip_norm", "warmup"):
        assert there not in remedies


def test_a_loss_that_is_no_number_from_the_first_step_is_the_cause():
    """What came later has not caused it, and clipping is no cure."""
    exploding = exploding_record().trainings[0]
    broken = msgspec.structs.replace(exploding, facts={**exploding.facts, "first_nonfinite_loss": 0.0})
    (finding,) = diagnose(RunRecord(id="r", subject="s", trainings=(broken,)))
    assert finding.problem == "nan_source" and "exploding_gradient" in finding.consequences
    assert finding.remedies == ()
