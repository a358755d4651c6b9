"""Sample data for every plot and view: seven sigmoid layers that do not train, and what batch normalization does to them.

``python -m trimtab.report.sample out.html`` writes the page of a treated run and prints the terminal's view of it;
a second argument chooses the page: ``treated``, ``compared``, ``tuned``, ``watched`` or ``clean``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from trimtab.records import (
    Arm,
    Attempt,
    Axis,
    CodePlace,
    Comparison,
    Evidence,
    Finding,
    Layer,
    Measured,
    Metric,
    Profile,
    RunRecord,
    Series,
    Status,
    Story,
    TrainingRecord,
    Treatment,
    Trial,
    Tuning,
)  # fmt: skip

ACCURACY = Metric(name="val accuracy", goal="max", why="measured where the script evaluates its loss")
MEASURED = (
    Measured("loss", "loss", "The number whose gradient each update applies; lower is better."),
    Measured("lr", "learning rate", "Of the first parameter group, as each step took it."),
    Measured("grad_norms", "Gradient profile", "How much gradient reaches each layer.", "parameter", owed=True, rank=1),
    Measured("activation_std", "Activation spread", "How far each layer's outputs spread.", "layer", owed=True, rank=2),
    Measured(
        "dead_units", "Dead units", "Share of units that were zero for every sample seen.", "layer", True, True, 3
    ),
)
WINNER = "batch_norm(after='linear')"


def series(values: np.ndarray, every: int = 1) -> Series:
    """Values seen on every ``every``-th step."""
    return Series(steps=tuple(range(0, len(values) * every, every)), values=tuple(float(value) for value in values))


def run(steps: int = 940, spike: int | None = None, sick: bool = True, seed: int = 0) -> RunRecord:
    """A watched run; ``spike`` is a step at which the loss jumps, ``sick`` whether the gradient vanishes."""
    random = np.random.default_rng(seed)
    time = np.arange(steps) / steps
    loss = (
        (2.31 + 0.02 * random.standard_normal(steps))
        if sick
        else 2.3 * np.exp(-4 * time) + 0.08 + 0.04 * random.random(steps)
    )
    if spike is not None:
        loss[spike] = loss.max() * 4
    every = max(steps // 20, 1)
    after = time[::every]
    accuracy = 0.1 + 0.01 * random.standard_normal(len(after)) if sick else 0.97 - 0.87 * np.exp(-7 * after)
    names = tuple(f"net.{2 * layer}" for layer in range(8))
    kept = {
        "loss": series(loss), "val loss": series(loss[::every] + 0.01 * random.standard_normal(len(after)), every),
        "val accuracy": series(accuracy, every), "lr": series(0.1 * (1 + np.cos(np.pi * after)) / 2, every),
    }  # fmt: skip
    training = TrainingRecord(
        name="net", model="Sequential", optimizers=("SGD",), steps=steps, epochs=20, series=kept,
        layers=tuple(Layer(name=name, kind="Linear", parameters=(f"{name}.weight", f"{name}.bias"), units=64) for name in names),
        profiles=_profiles(names, np.arange(0, steps, max(steps // 60, 1)), sick, random),
        facts={"parameters": 33802.0, "classes": 10.0, "batch size": 32.0},
        code=CodePlace(file="digits.py", line=24, source="optimizer = torch.optim.SGD(net.parameters(), lr=0.1)"),
        notes=(f"Layers were sampled on {len(range(0, steps, max(steps // 60, 1)))} of {steps:,} steps.",),
    )  # fmt: skip
    return RunRecord(
        id="20260105-101500-digits", subject="digits.py", started=1767608100.0, seconds=41.7, trainings=(training,), metric=ACCURACY, measured=MEASURED,
        versions={"trimtab": "0.1.0", "torch": "2.9.0", "python": "3.12.4", "platform": "Linux x86_64"},
        output_tail="epoch 19: loss 2.304, accuracy 0.101" if sick else "epoch 19: loss 0.110, accuracy 0.966",
    )  # fmt: skip


def _profiles(names: Sequence[str], steps: np.ndarray, sick: bool, random: np.random.Generator) -> dict[str, Profile]:
    depth = np.arange(len(names) - 1, -1, -1)[None]
    noise = np.exp(0.3 * random.standard_normal((len(steps), len(names))))
    gradient = 0.4 * (0.12 if sick else 0.85) ** depth * noise * np.linspace(1.4, 0.7, len(steps))[:, None]
    spread = (0.02 + 0.4 * 0.45 ** depth[:, ::-1]) * noise**0.4 if sick else 0.5 * noise**0.3
    dead = np.clip(0.02 * noise * np.linspace(0.2, 4, len(steps))[:, None] * (1 + depth[:, ::-1] / 2), 0, 1)
    if sick:
        gradient[len(steps) // 2, 3], gradient[len(steps) // 2, 4] = np.inf, np.nan
    parameters = tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))
    both = np.repeat(gradient, 2, axis=1) * np.tile([0.96, 0.28], len(names))
    tables = {
        "grad_norms": (parameters, both),
        "activation_std": (tuple(names), spread),
        "dead_units": (tuple(names), dead),
    }
    return {
        name: Profile(names=names, steps=tuple(steps.tolist()), rows=tuple(tuple(row) for row in table.tolist()))
        for name, (names, table) in tables.items()
    }


def findings() -> tuple[Finding, ...]:
    """What the judge says of the sick run."""
    vanishing = Finding(
        problem="vanishing_gradient", severity="error", where="net.0", training="net", confidence=0.97,
        title="The gradient vanishes on its way to the first layers",
        evidence=(
            Evidence(
                text="From net.14 to net.0 the gradient shrinks by a factor of 2.8 million, in the median of 63 sampled steps.",
                numbers={"last layer": 0.41, "first layer": 1.5e-7, "per layer": 0.12}, shows=("grad_norms",),
            ),
            Evidence(text="The loss fell by 0.3 % in 940 steps.", numbers={"first": 2.314, "last": 2.307}, shows=("loss",)),
        ),
        cause="The derivative of a sigmoid is at most 1/4. Each layer multiplies the gradient by it and by its weights, so that after "
        "seven layers hardly anything reaches the input, and the first layers keep their random weights.",
        source="Hochreiter 1991; Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
        remedies=(WINNER, "layer_norm(after='linear')", "xavier_init(), residual(every=2)"),
    )  # fmt: skip
    unscaled = Finding(
        problem="unscaled_inputs", severity="warning", where="data", training="net",
        title="The inputs are not scaled",
        evidence=(Evidence(text="The inputs run from 0 to 16 with mean 4.9.", numbers={"mean": 4.88, "std": 6.02}),),
        cause="Inputs far from zero mean and unit spread push sigmoids into their flat region and make the loss badly conditioned.",
        source="LeCun et al. 1998, Efficient BackProp", remedies=("standardize_inputs()",),
    )  # fmt: skip
    return vanishing, unscaled


def comparison(seeds: Sequence[int] = (10, 11, 12, 13, 14), recipes: Sequence[str] = (WINNER,)) -> Comparison:
    """Trials of recipes whose true effects shrink with their place in the list."""
    random = np.random.default_rng(len(seeds) + 7)
    baseline = 0.10 + 0.008 * random.standard_normal(len(seeds))
    trials = [_trial("", seed, value, random) for seed, value in zip(seeds, baseline, strict=True)]
    arms = []
    for place, recipe in enumerate(recipes):
        values = np.clip(
            0.94 * 0.35**place + 0.05 * (place > 0) + 0.014 * (1 + place) * random.standard_normal(len(seeds)), 0.02, 1
        )
        trials += [_trial(recipe, seed, value, random) for seed, value in zip(seeds, values, strict=True)]
        difference = values - baseline
        half = 2.78 * difference.std(ddof=1) / len(seeds) ** 0.5
        p = float(min(1.0, 0.0004 * 30**place))
        arms.append(Arm(
            recipe=recipe, seeds=tuple(seeds), values=tuple(values.tolist()), differences=tuple(difference.tolist()),
            mean=float(values.mean()), effect=float(difference.mean()), low=float(difference.mean() - half),
            high=float(difference.mean() + half), p=p, p_sign=2.0 ** (1 - len(seeds)), p_holm=min(1.0, p * len(recipes)),
            wins=int((difference > 0).sum()), diverged=int(place == 2), remarks=("1 seed ended with NaN",) if place == 2 else (),
        ))  # fmt: skip
    words = (f"{len(seeds)} paired seeds; the interval is that of the mean paired difference.",)
    return Comparison(subject="digits.py", metric=ACCURACY, seeds=tuple(seeds), baseline=tuple(baseline.tolist()), arms=tuple(arms),
                      trials=tuple(trials), remarks=words)  # fmt: skip


def _trial(recipe: str, seed: int, value: float, random: np.random.Generator) -> Trial:
    time = np.linspace(0, 1, 236)
    trained = max(float(value) - 0.1, 0.0)
    loss = 2.31 - 2.4 * trained * (1 - np.exp(-5 * time)) + 0.03 * random.standard_normal(len(time))
    accuracy = (
        0.1 + (float(value) - 0.1) * (1 - np.exp(-6 * time[::12])) + 0.006 * random.standard_normal(len(time[::12]))
    )
    curves = {"loss": series(loss, 4), "val accuracy": series(accuracy, 48)}
    return Trial(
        subject="digits.py", recipe=recipe, seed=seed, status="ok", value=float(value), seconds=8.2, curves=curves
    )


def search() -> Comparison:
    """The comparison in which the winner was chosen."""
    return comparison(
        (0, 1, 2), (WINNER, "layer_norm(after='linear')", "xavier_init(), residual(every=2)", "standardize_inputs()")
    )


def treatment() -> Treatment:
    """The treatment of the sick run."""
    return Treatment(
        subject="digits.py", findings=findings(), recipe=WINNER, metric=ACCURACY, search=search(), confirmation=comparison(), seconds=212.0,
        lines=("import trimtab as tt", "", "net = make_net()", "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)",
               'tt.attach(net, optimizer).apply("batch_norm(after=\'linear\')")'),
        remarks=("4 recipes were tried on 3 seeds; the best was confirmed on 5 seeds that played no part in choosing it.",),
    )  # fmt: skip


def tuning() -> Tuning:
    """A search over a learning rate, a norm and dropout: rates far off are pruned, the largest diverge."""
    random = np.random.default_rng(11)
    norms, drops = ("batch_norm", "layer_norm", "none"), ("dropout", "none")
    axes = (
        Axis(name="learning_rate.lr", low=1e-3, high=3.0, log=True), Axis(name=" | ".join(norms), choices=norms),
        Axis(name=" | ".join(drops), choices=drops), Axis(name="dropout.p", low=0.0, high=0.6),
    )  # fmt: skip
    attempts = []
    for number in range(24):
        near = min(number / 16, 1.0)  # the search closes in
        rate = float(f"{10 ** (near * np.log10(0.15) * 0.8 + (1 - 0.8 * near) * random.uniform(-3, 0.48)):.3g}")
        norm, drop = (
            str(random.choice(c, p=[0.4 + 0.4 * near, *rest]))
            for c, rest in ((norms, [0.3 - 0.2 * near] * 2), (drops, [0.6 - 0.4 * near]))
        )
        share = float(f"{random.uniform(0, 0.6):.3f}")
        value = (
            0.93 - 0.1 * abs(np.log10(rate / 0.15)) - 0.05 * (norm != "batch_norm") - 0.2 * share * (drop == "dropout")
        )
        parts = (
            [f"learning_rate(lr={rate})"] + [norm] * (norm != "none") + [f"dropout(p={share})"] * (drop == "dropout")
        )
        at: dict[str, float | str] = {axes[0].name: rate, axes[1].name: norm, axes[2].name: drop}
        at |= {axes[3].name: share} if drop == "dropout" else {}
        status: Status = "diverged" if rate > 1.5 else "pruned" if number > 5 and value < 0.76 else "ok"
        heard = series(np.round(value * (1 - 0.7 * np.exp(-np.arange(8 if status == "ok" else 3))), 4), 47)
        attempts.append(Attempt(
            number=number, recipe=", ".join(parts), status=status, seconds=8.0 if status == "ok" else 3.1, at=at,
            value=float(round(value, 4)) if status == "ok" else np.nan, reports=Series() if status == "diverged" else heard,
        ))  # fmt: skip
    best = sorted((attempt for attempt in attempts if attempt.status == "ok"), key=lambda attempt: -attempt.value)[:3]
    return Tuning(
        subject="digits.py", metric=ACCURACY, run="20260105-101500-digits", axes=axes, attempts=tuple(attempts), untreated=0.101,
        search=("learning_rate(lr=log(0.001, 3))", " | ".join(norms), "dropout(p=uniform(0, 0.6)) | none"), quantile=5 / 24,
        importances={axes[0].name: 0.58, axes[1].name: 0.27, axes[3].name: 0.11, axes[2].name: 0.04}, recipe=best[0].recipe,
        confirmation=comparison(recipes=[attempt.recipe for attempt in best]), seconds=151.0,
        lines=("# in digits.py, after line 24: optimizer = torch.optim.SGD(net.parameters(), lr=0.1)", "import trimtab as tt",
               f'tt.attach(net, optimizer).apply("{best[0].recipe}")'),
        remarks=(f"Recipes tried on seed 0: {len(attempts)}.",),
    )  # fmt: skip


def main(path: str, kind: str = "treated") -> None:
    """Write the page of one kind to ``path`` and print the terminal's view of the same."""
    from rich.console import Console

    from trimtab.report import summary, write_page

    compared = comparison((0, 1, 2, 3, 4), (WINNER, "layer_norm(after='linear')", "clip_norm(1.0)"))
    shown = {
        "treated": Story(run(), findings(), treatment()), "compared": Story(run(), (), compared),
        "tuned": Story(run(), findings(), tuning()),
        "watched": Story(run(10_000, spike=7_321), findings()), "clean": Story(run(sick=False)),
    }  # fmt: skip
    Console().print(summary(shown[kind]))
    print(write_page(path, shown[kind]))


if __name__ == "__main__":
    main(*sys.argv[1:])
