"""Seeds that are trained together: each is the trial that it is by itself, or the engine runs it by itself and says why."""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab import optim
from trimtab.records import Asked, Metric, TrainingRecord
from trimtab.testing.engines import CHECKS
from trimtab.trial.engines import LocalEngine, StackedEngine
from trimtab.trial.engines.stacked import Stack
from trimtab.trial.live import Live
from trimtab.trial.run import Job, Result, run_job
from trimtab.trial.stack import CannotStackError
from trimtab.trial.subjects import Task

ROUNDING = 1e-5  # of numbers about 1, after some dozens of steps in single precision


def data() -> tuple:
    generator = torch._C.Generator().manual_seed(0)  # not shifted: the data are the same for every seed
    y = torch.arange(320) % 4
    x = torch.randn(4, 16, generator=generator)[y] + 1.4 * torch.randn(320, 16, generator=generator)
    return (x[:250], y[:250]), (x[250:], y[250:])


def own_data() -> tuple:
    """Another sample for each seed; the generators go on from it to the weights."""
    y = torch.arange(320) % 4
    x = 2 * torch.randn(4, 16)[y] + torch.tensor(np.random.normal(size=(320, 16)), dtype=torch.float32)
    return (x[:250], y[:250]), (x[250:], y[250:])


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


class Tied(nn.Module):
    """One matrix twice, a parameter that is not trained, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).tanh()).tanh())


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 4))


def hooked() -> nn.Module:
    made = model()
    made[0].weight.register_hook(lambda gradient: gradient.clamp(-100, 100))
    return made


class Forward(nn.Module):
    """A model that changes what it is given."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change, self.net = change, model()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.change(self, x))


def noise(module: Forward, x: torch.Tensor) -> torch.Tensor:
    return x + torch.tensor(np.random.normal(0, 1e-6), dtype=x.dtype)


def branch(module: Forward, x: torch.Tensor) -> torch.Tensor:
    return 2 * x if x.mean() > 0 else x


def renewed(module: Forward, x: torch.Tensor) -> torch.Tensor:
    module.mean = 0.9 * module.mean + 0.1 * x.detach().mean(0)
    return x - module.mean


def scaled(module: Forward, x: torch.Tensor) -> torch.Tensor:
    return x * module.scale


def scale_of_its_own() -> nn.Module:
    made = Forward(scaled)
    made.scale = float(torch.rand(()))  # neither parameter nor buffer
    return made


class Pretrained(nn.Sequential):
    """One that was trained before."""

    def __init__(self) -> None:
        super().__init__(*model())
        torch.optim.SGD(self.parameters(), lr=0.1)


def measured_before() -> nn.Module:
    made = model()
    (x, y), _ = data()
    with torch.no_grad():
        nn.functional.cross_entropy(made(x), y)
    return made


CALLS = itertools.count()
PHASE = 0


SEEN = {"calls": 0}


def in_stages(outputs, y):
    """A loss that is another one later."""
    SEEN["calls"] += 1
    return distance(outputs, y) * (1 if SEEN["calls"] < 10_000 else 3)


class Counts(nn.Linear):
    """A model that counts for all of its kind."""

    seen = 0

    def __init__(self):
        super().__init__(16, 4)

    def forward(self, x):
        Counts.seen += 1
        return super().forward(x)


def in_phases(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    global PHASE
    PHASE += 1
    return distance(output, target) * (2 if PHASE > 10_000 else 1)


class Phases:
    """The same, as an object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return distance(output, target) * (2 if self.calls > 10_000 else 1)


def counted_data() -> tuple:
    (x, y), held_out = data()
    return (x + next(CALLS), y), held_out  # in a process of its own, this is always the first call


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def no_decay_of_biases(parameters) -> torch.optim.Optimizer:
    listed = list(parameters)
    kinds = [[p for p in listed if p.ndim > 1], [p for p in listed if p.ndim < 2]]
    return torch.optim.AdamW([{"params": kinds[0], "weight_decay": 0.5}, {"params": kinds[1]}], lr=0.002)


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.002)


def adagrad(parameters) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=0.1)


def ours(parameters) -> torch.optim.Optimizer:
    return optim.RMSprop(parameters, lr=0.001, centered=True, decay="decoupled", weight_decay=0.1)


def skipping(parameters) -> torch.optim.Optimizer:
    return optim.SGD(parameters, lr=0.05, nonfinite="skip")


def muon(parameters) -> torch.optim.Optimizer:
    return torch.optim.Muon([p for p in parameters if p.ndim == 2])


def rate_of_its_own(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05 + float(torch.rand(())) / 100)


def distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - nn.functional.one_hot(target, 4)).square().mean()


def of_both(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target) + 0.1 * distance(output, target)


def task(name: str = "clusters", **more) -> Task:
    return Task(name, **{"model": model, "data": data, "optimizer": adam, "epochs": 2} | more)


def stack(what: Task, recipe: str = "", seeds: tuple[int, ...] = (0, 5), **more) -> Stack:
    return Stack(tuple(Job(what, recipe, seed, **more) for seed in seeds))


def together(trials: Stack) -> list[Result]:
    """The results of seeds that were trained together, in this process."""
    return trials.results(run_job(trials.job))


def alike(one: Result, other: Result) -> None:
    """Two results of a seed say the same, but for rounding and the clock."""
    assert (one.trial.status, one.trial.error) == (other.trial.status, other.trial.error)
    assert (one.trial.recipe, one.trial.seed, one.trial.subject) == (
        other.trial.recipe, other.trial.seed, other.trial.subject,
    )  # fmt: skip
    assert one.trial.value == pytest.approx(other.trial.value, rel=ROUNDING, abs=ROUNDING)
    assert (one.trial.changed, one.trial.applied) == (other.trial.changed, other.trial.applied)
    assert one.trial.numbers and one.trial.seconds > 0
    assert one.trial.curves.keys() == other.trial.curves.keys()
    assert (one.run.metric, one.run.latest) == (other.run.metric, other.run.latest)
    (ours,), (theirs,) = one.run.trainings, other.run.trainings
    for name in TrainingRecord.__struct_fields__:
        if name != "series":
            assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.series) == list(theirs.series)
    for name, series in theirs.series.items():
        assert ours.series[name].steps == series.steps
        np.testing.assert_allclose(ours.series[name].array, series.array, rtol=ROUNDING, atol=ROUNDING, err_msg=name)


TASKS = {
    "one rate and momentum": task(optimizer=sgd),
    "the default optimizer": task(optimizer=None, batch_size=50),
    "Adam": task(),
    "two groups, told apart by axes": task(optimizer=no_decay_of_biases),
    "state from the beginning": task(optimizer=adagrad),
    "an optimizer of ours": task(optimizer=ours),
    "running statistics": task(model=normed, optimizer=sgd),
    "tied weights": task(model=Tied),
    "data of each seed": task(data=own_data),
    "a loss that is a module": task(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "a loss of its own": task(loss=distance),
    "a loss of its own around one of torch's": task(loss=of_both),
}


@pytest.mark.parametrize("what", TASKS.values(), ids=TASKS.keys())
def test_each_seed_is_the_trial_that_it_is_by_itself(what):
    trials = stack(what)
    first, second = together(trials)
    alike(second, run_job(trials.jobs[1]))
    assert first.trial.numbers != second.trial.numbers


@pytest.mark.parametrize(
    "recipe", ["lr_scale(factor=0.3), weight_decay(factor=0.5)", "warmup(steps=5), cosine_decay(steps=30)", "weight_decay(factor=0.1, kind='coupled')"]
)  # fmt: skip
def test_recipes_of_rates_and_decay_act_as_on_each(recipe):
    trials = stack(task(optimizer=sgd), recipe, metric=Metric(name="val loss", goal="min"))
    untreated = run_job(Job(task(optimizer=sgd), "", 0, Metric(name="val loss", goal="min"))).trial.value
    for job, result in zip(trials.jobs, together(trials), strict=True):
        alike(result, run_job(job))
        assert result.trial.applied and result.trial.value != pytest.approx(untreated, rel=1e-3)


def test_a_metric_that_was_asked_for_judges_each():
    trials = stack(task(), asked=Asked(metric="val loss", best=True))
    for job, result in zip(trials.jobs, together(trials), strict=True):
        alike(result, run_job(job))
        assert result.run.metric.name == "val loss" and result.run.metric.best


def test_runs_that_make_some_steps_only_end_where_they_would():
    trials = stack(task(), steps=11)
    for job, result in zip(trials.jobs, together(trials), strict=True):
        assert result.run.main.steps == 11
        alike(result, run_job(job))


def hot() -> nn.Module:
    made = model()
    if torch.initial_seed() == 1:  # as a trial's is called at its beginning
        nn.init.constant_(made[2].weight, 1e30)
    return made


def test_a_seed_that_diverges_does_so_alone():
    trials = stack(task(model=hot, optimizer=sgd), seeds=(0, 1, 2), metric=Metric(name="val loss", goal="min"))
    results = together(trials)
    assert [result.trial.status for result in results] == ["ok", "diverged", "ok"]
    by_itself = [run_job(job) for job in trials.jobs]
    assert [result.trial.status for result in by_itself] == ["ok", "diverged", "ok"]
    alike(results[0], by_itself[0])
    alike(results[2], by_itself[2])
    fact = "first_nonfinite_loss"
    assert results[1].run.main.facts[fact] == by_itself[1].run.main.facts[fact]
    assert np.isnan(results[1].trial.value) and results[1].trial.error == by_itself[1].trial.error


REFUSED = {
    "dropout": (task(model=dropping), "random numbers are drawn while it trains"),
    "noise of numpy's": (task(model=functools.partial(Forward, noise)), "random numbers are drawn while it trains"),
    "a branch": (task(model=functools.partial(Forward, branch)), "what it does depends on what it computes"),
    "a buffer in the place of another": (task(model=functools.partial(Forward, renewed)), "stacked, its"),
    "a number that is no weight": (task(model=scale_of_its_own), "stacked, its loss is another one in the first steps"),
    "a hook": (task(model=hooked), "something is hooked into its gradients or its steps"),
    "whole matrices": (task(optimizer=muon), "Muon is not known to move each entry of a weight by itself"),
    "all or nothing": (task(optimizer=skipping), "its SGD leaves out whole steps"),
    "rates of each seed": (task(optimizer=rate_of_its_own), "its models or its optimizers differ from seed to seed"),
    "what goes on between seeds": (task(data=counted_data), "its functions give something else when they are called once more"),
    "an optimizer before": (task(model=Pretrained), "something else is trained or evaluated before"),
    "an evaluation before": (task(model=measured_before), "something else is trained or evaluated before"),
    "a count of the file": (task(loss=in_phases), "its functions keep something from one call to the next"),
    "a count in a dictionary": (task(loss=in_stages), "its functions keep something from one call to the next"),
    "a count of a class": (task(model=Counts), "its functions keep something from one call to the next"),
    "a count of an object": (task(loss=Phases()), "its functions keep something from one call to the next"),
    "an error": (task(loss=nn.functional.mse_loss), "RuntimeError: "),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("what", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_stacked_is_refused_with_the_reason(what, why, capsys):
    with pytest.raises(CannotStackError) as refused:
        together(stack(what))
    assert why in str(refused.value)


# -- the engine ------------------------------------------------------------------------------------------------------


def engine() -> StackedEngine:
    """Two processes at a time with one thread each."""
    made = StackedEngine(2)
    made.threads = 1
    return made


def run(where: LocalEngine, jobs: list[Job], **more) -> dict[tuple[str, int], Result]:
    results: dict[tuple[str, int], Result] = {}
    where.run(jobs, lambda job, result: results.__setitem__((job.recipe, job.seed), result), **more)
    return results


def test_stacks_are_as_large_as_the_workers_make_them():
    jobs = [Job(task(), recipe, seed) for seed in range(5) for recipe in ("", "lr_scale(factor=2)")]
    made = list(StackedEngine(2)._in_stacks([*jobs, replace(jobs[0], seed=9, watch=True)]))
    assert [[one.seed for one in job.subject.jobs] for job in made[1:]] == [[0, 1, 2, 3, 4]] * 2
    assert made[0].watch  # what cannot be stacked does not wait for what can
    made = list(StackedEngine(2)._in_stacks(jobs[::2]))
    assert [[one.seed for one in job.subject.jobs] for job in made] == [[0, 2, 4], [1, 3]]
    made = list(StackedEngine(1, most=2)._in_stacks(jobs[::2]))
    assert [len(job.subject.jobs) if isinstance(job.subject, Stack) else 1 for job in made] == [2, 2, 1]


def test_trials_of_a_task_are_stacked_and_others_run_by_themselves(train):
    where, what = engine(), task()
    jobs = [Job(what, "", 0), Job(what, "", 1), Job(what, "batch_norm", 0)]
    results = run(where, jobs)
    for job in jobs:
        alike(results[job.recipe, job.seed], run_job(job))
    assert (
        results["batch_norm", 0].trial.memory and not results["", 1].trial.memory
    )  # of a stack, nobody's own is known
    assert [one.code for one in where.remarks] == ["not_stacked"]
    (said,) = where.remarks
    assert repr(said) == (
        "<Remark not_stacked: Not all seeds of clusters were trained together in one pass: batch_norm may do more than change rates and "
        "let weights decay.>"
    )
    where.close()


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no forward here")


def test_an_error_of_the_model_is_told_as_by_the_local_engine(train):
    where = engine()
    results = run(where, [Job(task(model=Broken), "", seed) for seed in (0, 1)])
    for result in results.values():
        assert (result.trial.status, result.trial.error) == ("failed", "ValueError: no forward here")
        assert "Traceback" in result.log
    assert [one.values["why"] for one in where.remarks] == ["ValueError: no forward here"]


def test_a_stack_is_stopped_when_the_time_is_over(train):
    began = time.monotonic()
    jobs = [Job(task(epochs=100_000), "", seed) for seed in range(4)]
    assert run(engine(), jobs, stop_at=began + 1) == {} and time.monotonic() - began < 8
    assert run(engine(), jobs, stop_at=began) == {}


def test_followed_trials_are_not_stacked_and_it_is_said_once(train):
    where = StackedEngine(2)
    live = [Job(task(), "", seed, live=Live(every=8)) for seed in range(3)]
    assert list(where._in_stacks(live)) == live
    assert len(where.remarks) == 1
    scripts = [Job(tt.Script(__file__), "", seed) for seed in range(3)]
    assert list(where._in_stacks(scripts)) == scripts
    assert len(where.remarks) == 2


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_holds_what_all_engines_hold(check, train):
    check(engine())


@pytest.mark.slow
def test_a_comparison_says_the_same(train):
    both = [
        tt.compare(task(), ["lr_scale(factor=0.1)", "he_init"], seeds=4, engine=where, fresh=True)
        for where in (LocalEngine(2), engine())
    ]
    assert both[0].baseline == pytest.approx(both[1].baseline, abs=0.02)  # one of the 70 held-out samples
    assert [one.standing for one in both[0].arms] == [one.standing for one in both[1].arms]
    assert [one.code for one in both[1].remarks].count("not_stacked") == 1
