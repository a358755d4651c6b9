"""The suites for members refuse what is wrong with one, and say which member and what must hold."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from trimtab.doctor.rule import CannotJudge, rule
from trimtab.recipe import Change, Suite, Technique
from trimtab.records import Comparison, Evidence, Finding, Measured, Outcome, Series, TrainingRecord
from trimtab.report.figures import Picture
from trimtab.report.telling import Telling
from trimtab.signals import Activations, Signal
from trimtab.testing import (
    check_engine,
    check_outcome,
    check_part,
    check_plot,
    check_rule,
    check_signal,
    check_technique,
)
from trimtab.testing.rules import healthy
from trimtab.testing.traces import hooks_of, new_hooks
from trimtab.testing.trainings import clusters
from trimtab.training.handle import attach
from trimtab.trial.engines import LocalEngine

GROUP = "regularization"


def refused(check, *what, says: str, name: str, **more) -> None:
    with pytest.raises(AssertionError, match=says) as error:
        check(*what, **more)
    assert name in str(error.value)


@pytest.fixture(autouse=True)
def no_member_of_these_stays():
    """Techniques and tellings are known to all of trimtab as long as they live."""
    known, tellings = dict(Technique.registry), len(Telling.__subclasses__())
    yield
    Technique.registry.clear()
    Technique.registry.update(known)
    if len(Telling.__subclasses__()) > tellings:
        gc.collect()


# -- signals ---------------------------------------------------------------------------------------------------------


class Sound(Signal):
    """The mean of the last output."""

    measures = (Measured("last_mean", "last mean", "The mean of what the last layer gives."),)
    cost = "a sum"
    does = staticmethod(lambda signal, moment, *what: None)
    """What is wrong with it."""

    def __init__(self):
        self._read = {}
        self.does(self, "__init__")

    def forward(self, name, module, inputs, output):
        self._read = {"last_mean": float(output.detach().mean())}
        self.does(self, "forward", module, output)

    def loss(self, name, output, target, value):
        self.does(self, "loss", output, target, value)

    def gradients(self, parameters):
        self.does(self, "gradients", parameters)

    def before_step(self, parameters):
        self.does(self, "before_step", parameters)

    def after_step(self, parameters):
        self.does(self, "after_step", parameters)

    def trained(self, loss):
        self.does(self, "trained", loss)

    def read(self):
        read, self._read = self._read, {}
        self.does(self, "read")
        return read


def signal(at: str = "", does=None, **attributes) -> type[Signal]:
    """A signal that does something wrong at one moment."""
    if does is not None:
        attributes["does"] = staticmethod(lambda signal, moment, *what: does(signal, *what) if moment == at else None)
    return type("Wrong", (Sound,), {"__doc__": "Wrong.", **attributes})


def measured(name: str) -> dict:
    """Declares this name, and reads it."""
    return {
        "measures": (Measured(name, "a title", "A meaning."),),
        "read": lambda self: {name: self._read.pop("last_mean")} if self._read else {},
    }


def test_a_sound_signal_passes():
    check_signal(Sound)


MOMENTS = ("__init__", "forward", "loss", "gradients", "before_step", "after_step", "trained", "read")


@pytest.mark.parametrize("draw", [lambda *_: torch.rand(1), lambda *_: np.random.rand(), lambda *_: random.random()])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_that_draws(moment, draw):
    refused(check_signal, signal(moment, draw), says=rf"in {moment} it draws random numbers", name="Wrong")


def _keep_for_all(signal, module, output):
    type(signal).kept = [output]


def _keep_view(signal, parameters):
    signal.kept = {"views": [p.grad.view(-1) for _, p in parameters]}


class Noted(nn.Linear):
    """Notes its calls."""


@pytest.mark.parametrize(
    ("at", "does", "says"),
    [
        ("gradients", lambda s, ps: ps[0][1].grad.mul_(2), "changes tensors"),
        ("gradients", lambda s, ps: setattr(ps[0][1], "grad", None), "takes gradients away"),
        ("after_step", lambda s, ps: ps[0][1].data.add_(1), "changes parameters or buffers"),
        ("after_step", lambda s, ps: ps[0][1].add_(1), "must only look, raises RuntimeError"),
        ("forward", lambda s, module, output: output.data.add_(1), "changes tensors"),
        ("forward", lambda s, module, output: output.add_(1), "changes tensors"),
        ("loss", lambda s, output, target, value: target.zero_(), "changes tensors"),
        ("forward", lambda s, module, output: module.eval(), "between training and evaluation"),
        ("forward", lambda s, module, output: module.register_forward_hook(print), "leaves hooks"),
        ("forward", lambda s, module, output: output.register_hook(abs), "leaves hooks"),
        ("forward", lambda s, module, output: output.retain_grad(), "leaves hooks"),
        ("gradients", lambda s, ps: ps[0][1].register_hook(abs), "leaves hooks"),
        ("gradients", lambda s, ps: ps[0][1].register_post_accumulate_grad_hook(print), "leaves hooks"),
        ("forward", lambda s, module, output: setattr(s, "kept", [output]), "keeps a graph alive"),
        ("forward", _keep_for_all, "keeps a graph alive"),
        ("forward", lambda s, module, output: setattr(s, "kept", output.detach()), "keeps tensors"),
        ("gradients", _keep_view, "keeps tensors"),
        ("gradients", lambda s, ps: setattr(s, "kept", ps), "keeps tensors"),
        ("read", lambda s: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_signal_that_does_more_than_look(at, does, says):
    data = clusters()
    refused(check_signal, signal(at, does), (data[0], data[1].clone()), says=says, name="Wrong")


def test_a_signal_may_keep_copies():
    check_signal(signal("forward", lambda s, module, output: setattr(s, "kept", output.detach().clone())))


class Demanding(Sound):
    """Wants an argument."""

    def __init__(self, most):
        super().__init__()


@pytest.mark.parametrize(
    ("wrong", "says", "name"),
    [
        (Sound(), "must be a class derived from Signal, and is an instance", "Sound"),
        (_keep_view, "must be a class derived from Signal, and is the function", "_keep_view"),
        (nn.Linear, "must be a class derived from Signal", "Linear"),
        (Demanding, "without arguments", "Demanding"),
        (signal(**measured("loss")), "loss is measured by trimtab already", "Wrong"),
        (signal(**measured("val accuracy")), "val accuracy is measured by trimtab already", "Wrong"),
        (signal(**measured("printed tilt")), "reads as a number that a script says", "Wrong"),
        (signal(**measured("grad_norms")), "grad_norms is measured by Gradients already", "Wrong"),
        (type("MyActivations", (Activations,), {"__doc__": "Mine."}), "measured by Activations", "MyActivations"),
        (signal(measures=["mean"]), "a tuple of Measured", "Wrong"),
        (signal(read=lambda self: None), "must give numbers by their names", "Wrong"),
        (signal(read=lambda self: {"last_mean": torch.ones(())}), "must be numbers", "Wrong"),
        (signal(read=lambda self: {"last_mean": float("nan")}), "must be finite somewhere", "Wrong"),
        (signal(read=lambda self: {"last_mean": 1.0}), "must forget", "Wrong"),
    ],
)
def test_a_signal_that_is_none_or_says_what_it_must_not(wrong, says, name):
    refused(check_signal, wrong, says=says, name=name)


class Channels(Signal):
    """The mean of what convolutions give."""

    measures = (Measured("channel_mean", "channel mean", "The mean of what a convolution gives.", "layer"),)
    cost = "a sum"

    def __init__(self):
        self._read = {}

    def forward(self, name, module, inputs, output):
        if isinstance(module, nn.Conv2d):
            self._read[name] = float(output.detach().mean())

    def read(self):
        read, self._read = self._read, {}
        return {"channel_mean": read} if read else {}


def test_a_signal_of_convolutions_has_a_network_of_its_own():
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Flatten(), nn.Linear(72, 10)
        )

    x, y = clusters()
    check_signal(Channels, (x.view(-1, 1, 8, 8), y), network)
    refused(check_signal, Channels, says="it reads", name="Channels")


# -- techniques ------------------------------------------------------------------------------------------------------

CARD = """Multiplies every weight by a factor below 1 after each step.

    Helps: networks that overfit. Hurts: networks that do not fit. Source: a stranger.

    Args:
        rate: the share of a weight that is taken away.

    >>> 1 + 1
    2
    """


def technique(does=None, apply=None, decorate=None, **attributes) -> type[Technique]:
    """A technique that shrinks weights; ``does(training)`` when it is applied, and gives what undoes that."""

    def shrinks(self, training):
        @torch.no_grad()
        def shrink(optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.mul_(1 - self.rate)

        stop = training.on("after_step", shrink)
        also = does(training) if does is not None else None
        return Change("weights shrink", lambda: (stop(), also() if also else None))

    inside = {"__doc__": CARD, "__annotations__": {"rate": float}, "rate": 0.01, "apply": apply or shrinks}
    inside |= {"acts_on": "update", "moment": "decay", "group": "regularization", "suite": Suite(always=True)}
    return (decorate or dataclass(frozen=True))(
        type("Shrinks", (Technique,), {**inside, "__module__": __name__, **attributes})
    )


def _plain(cls):
    return cls


def _hook_optimizer(training):
    training.optimizers[0].register_step_pre_hook(lambda *_: None)


def _draw(draw):
    def draws(training):
        draw()

    return draws


def test_a_sound_technique_passes():
    check_technique(technique())


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda t: t.models[0][0].register_forward_hook(lambda *_: None) and None, "undo must leave the hooks"),
        (lambda t: t.models[0].register_state_dict_pre_hook(lambda *_: None) and None, "undo must leave the hooks"),
        (lambda t: t.models[0][-1].weight.register_hook(lambda g: None) and None, "undo must leave the hooks"),
        (
            lambda t: t.models[0][-1].weight.register_post_accumulate_grad_hook(lambda p: None) and None,
            "undo must leave the hooks",
        ),
        (_hook_optimizer, "undo must leave the hooks"),
        (lambda t: t.on("step", lambda loss: None) and None, "undo must end what it began"),
        (lambda t: t.change_input(lambda x: 2 * x) and None, "undo must end what it began"),
        (lambda t: t.change_rate(lambda o: 0.5) and None, "after undo"),
        (lambda t: setattr(t.models[0], "seen", 1), "the same classes with the same attributes"),
        (_draw(np.random.rand), "draw from NumPy's generator"),
        (_draw(random.random), "draw from Python's generator"),
        (lambda t: t.on("step", lambda loss: np.random.rand()), "draws from NumPy's global generator"),
        (lambda t: t.on("step", lambda loss: torch.rand(1)), "draws from torch's global generator"),
        (lambda t: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_technique_that_leaves_something_behind_or_draws(does, says):
    refused(check_technique, technique(does), says=says, name="shrinks")


def test_gates_that_come_and_go_with_any_training_are_nobodys_hooks():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = hooks_of([one])
    with (
        attach(one, torch.optim.SGD(one.parameters())),
        attach(other, torch.optim.SGD(other.parameters())) as training,
    ):
        training.change_input(lambda x: x)
        assert one._forward_hooks and not new_hooks(before, hooks_of([one]))
        one.register_forward_hook(lambda *_: None)
        assert new_hooks(before, hooks_of([one])) == "_forward_hooks of Linear 0"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: technique(decorate=_plain), r"decorated with @dataclass\(frozen=True\)"),
        (lambda: technique(apply=Technique.apply), "must have apply"),
        (lambda: technique(apply=lambda self, training: None), "must give a Change"),
        (lambda: technique(group="weights"), "group='weights' must be one of"),
        (lambda: technique(group=""), "group='' must be one of"),
        (lambda: technique(clashes={"shrinkage": "both shrink"}), "There is no technique called 'shrinkage'"),
        (lambda: technique(clashes={"dropout": ""}), "gives no reason"),
        (lambda: technique(suite=Suite(text="dropout")), "is another recipe"),
        (lambda: technique()(), "must be a class derived from Technique, and is an instance of Shrinks"),
    ],
)
def test_a_technique_that_is_none(wrong, says, monkeypatch):
    if "group=''" in says:
        monkeypatch.delitem(globals(), "GROUP")
    refused(check_technique, wrong(), says=says, name="hrinks")


def test_a_technique_derived_from_another_is_decorated_itself():
    whole = technique()
    part = type("ShrinksMore", (whole,), {"__doc__": CARD, "__module__": __name__})
    refused(check_technique, part, says="decorated with @dataclass", name="shrinks_more")


# -- rules -----------------------------------------------------------------------------------------------------------

SOUND = Finding(
    problem="wrong",
    severity="warning",
    where="loop",
    title="A weight is large",
    evidence=(Evidence(text="It is 3.", numbers={"largest": 3.0}, shows=("largest",)),),
    cause="Nothing holds the weights.",
    source="",
    remedies=("weight_decay(factor=0.1)",),
)
ILL = msgspec.structs.replace(healthy(), name="ill", series={"largest": Series(steps=(0,), values=(3.0,))})


def wrong(training):
    """Fires when a weight is large."""
    yield SOUND


def ruled(judge, needs=None):
    """A rule called wrong."""
    judge.__name__, judge.__doc__ = "wrong", "Fires when a weight is large."
    return rule(needs={"largest": "the largest weight was not measured"} if needs is None else needs)(judge)


def _raises(error):
    def judge(training):
        raise error

    return judge


def finds(**changed):
    """A rule whose finding has something else."""
    return ruled(lambda training: [msgspec.structs.replace(SOUND, **changed)])


def test_a_sound_rule_passes():
    check_rule(ruled(wrong), fires=[ILL], silent=[healthy()])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: wrong, "must be made by the decorator"),
        (lambda: rule(wrong), "must be made by the decorator"),
        (lambda: ruled(_raises(ZeroDivisionError("no steps")), {}), "on the record 'empty' it .* ZeroDivisionError"),
        (lambda: ruled(lambda training: None, {}), "on the record 'empty' it must yield findings"),
        (lambda: ruled(lambda training: ["bad"], {}), "on the record 'empty' it gives an instance of str"),
        (lambda: ruled(lambda t: t.series.clear() or [], {}), "on the record 'healthy' it changes the record"),
        (lambda: ruled(_raises(CannotJudge(" ")), {}), "cannot judge, and gives no reason"),
        (lambda: ruled(wrong, {"largest": " "}), "needs must say"),
        (lambda: ruled(wrong, ["largest"]), "needs must be a dict"),
        (lambda: ruled(wrong, {"loss": "no loss"}), "evidence that shows 'largest'"),
        (lambda: ruled(lambda t: finds_of(t), {}), "it fires in 'healthy'"),
        (lambda: finds(severity="fatal"), "severity 'fatal'"),
        (lambda: finds(remedies=("weight_dcay",)), "remedy 'weight_dcay', which is no recipe"),
        (lambda: finds(remedies=("",)), "a remedy that is empty"),
        (lambda: finds(remedies="dropout"), "must be a tuple of recipes"),
        (lambda: finds(evidence=(Evidence(text="It is 3."),)), "has no numbers"),
        (lambda: finds(evidence=(Evidence(text="3", numbers={"a": "3"}),)), "must be numbers by their names"),
        (lambda: finds(evidence=(Evidence(text="3", numbers={"a": 3.0}, shows=("smallest",)),)), "shows 'smallest'"),
        (lambda: finds(evidence=(Evidence(text="3", numbers={"a": 3.0}, shows="largest"),)), "must be a tuple"),
    ],
)
def test_a_wrong_rule(made, says):
    refused(check_rule, made(), fires=[] if "healthy" in says else [ILL], says=says, name="wrong")


def finds_of(training):
    """Fires in the healthy record alone."""
    shown = Evidence(text="It is 3.", numbers={"largest": 3.0})
    return [msgspec.structs.replace(SOUND, evidence=(shown,))] if len(training.get("loss")) > 1 else []


def test_what_must_be_found_and_cannot_be_judged_is_told_with_its_reason():
    judged = ruled(_raises(CannotJudge("too few steps")))
    refused(check_rule, judged, fires=[ILL], says="nothing is found in 'ill'.* too few steps", name="wrong")
    check_rule(judged, silent=[ILL])


def test_a_rule_that_judges_without_what_it_needs():
    class Careless(type(ruled(wrong))):
        """Looks at no needs."""

        def __call__(self, training):
            return list(self.judge(training))

    careless = Careless("wrong", lambda training: [], {"largest": "no weight"})
    object.__setattr__(careless, "__doc__", "Fires when a weight is large.")
    refused(check_rule, careless, says="it needs 'largest', and judges", name="wrong")


# -- plots -----------------------------------------------------------------------------------------------------------

SVG = '<svg xmlns="http://www.w3.org/2000/svg">{}</svg>'


def drawn(inside: str = "", svg: str = SVG):
    """A plot of this."""

    def steps(training: TrainingRecord, key: str):
        yield Picture(f"{key}-steps", "Steps", "How many.", svg.format(inside))

    return steps


def test_a_sound_plot_passes():
    check_plot(drawn("<text>3 steps</text>"), healthy())


@pytest.mark.parametrize(
    ("plot", "says"),
    [
        (lambda training, key: None, "must yield pictures"),
        (lambda training, key: [SVG], "yields an instance of str"),
        (lambda training, key: 1 / len(training.layers), "record 'empty' .* ZeroDivisionError"),
        (drawn(svg="<svg><g></svg>"), "must be well-formed XML"),
        (drawn(svg="steps"), "must be well-formed XML"),
        (drawn("<script>alert(1)</script>"), "must have no script"),
        (drawn('<x:script xmlns:x="http://www.w3.org/2000/svg"/>'), "must have no script"),
        (drawn('<g onclick="alert(1)"/>'), "must run nothing, and onclick"),
        (drawn(svg='<svg OnLoad="alert(1)"/>'), "must run nothing, and OnLoad"),
        (drawn('<image href="https://example.org/a.png"/>'), "need no other file"),
    ],
)
def test_a_wrong_plot(plot, says):
    plot.__name__ = "steps"
    refused(check_plot, plot, says=says, name="steps")


# -- parts -----------------------------------------------------------------------------------------------------------


class Halve(nn.Module):
    r"""Gives half of its input.

    .. math:: y = x / 2

    When it helps: never. When it hurts: always. Source: a stranger.

    >>> 1 + 1
    2
    """

    def forward(self, x):
        return x / 2


class Bare(nn.Module):
    def forward(self, x):
        return x / 2


class Drawing(Halve):
    __doc__ = Halve.__doc__

    def forward(self, x):
        return x / 2 + 0 * torch.rand(1)


class Writing(Halve):
    __doc__ = Halve.__doc__

    def forward(self, x):
        return x.div_(2)


class WritingInTraining(Halve):
    __doc__ = Halve.__doc__

    def forward(self, x):
        return x.div_(2) if self.training else x / 2


class Failing(Halve):
    __doc__ = Halve.__doc__

    def forward(self, x):
        raise ValueError("not today")


def test_a_sound_part_passes():
    check_part(Halve, Halve(), torch.randn(3, 4))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Bare, "needs a docstring of its own"),
        (Drawing, "in evaluation mode it draws random numbers, of torch's"),
        (Writing, "in evaluation mode it writes into its input"),
        (WritingInTraining, "in training mode it writes into its input"),
        (Failing, "raises ValueError: not today"),
    ],
)
def test_a_wrong_part(part, says):
    refused(check_part, part, part(), torch.randn(3, 4), says=says, name=part.__name__)


def test_a_part_is_a_class_and_one_that_is_tried_is_made():
    refused(check_part, Halve(), says="a part must be a class or a function", name="Halve")
    refused(check_part, Halve, Halve, torch.randn(3, 4), says="made must be a module", name="Halve")


# -- outcomes --------------------------------------------------------------------------------------------------------


class Hope(Outcome):
    """What was hoped for."""

    came: bool | None = True


def hopes(**attributes):
    """A telling of it."""
    said = {"sentence": lambda self, outcome, findings: "It came", "helped": lambda self, outcome: outcome.came}
    return type("HopeTelling", (Telling,), {"record": Hope, **said, **attributes})


@pytest.mark.parametrize("came", [True, False, None])
def test_a_sound_outcome_passes(came):
    kept = hopes()
    check_outcome(Hope(subject="s", came=came))
    assert kept.record is Hope


@pytest.mark.parametrize(
    ("came", "attributes", "says"),
    [
        (True, {"exit_code": lambda self, outcome: 3}, "it helped, and its exit code must be 0, and is 3"),
        (False, {"exit_code": lambda self, outcome: 0}, "it did not help, and its exit code must say so"),
        (True, {"helped": lambda self, outcome: "yes"}, "must be True, False or None, and is 'yes'"),
        (True, {"sentence": lambda self, outcome, findings: None}, "the verdict must be one sentence"),
        (True, {"sentence": lambda self, outcome, findings: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_wrong_outcome(came, attributes, says):
    kept = hopes(**attributes)
    refused(check_outcome, Hope(subject="s", came=came), says=says, name=kept.record.__name__)


class Judged(Outcome):
    """It is called something else when it is asked to."""

    @classmethod
    def kind(cls):
        return _called


_called = "judged"


def test_an_outcome_of_a_kind_that_is_there(monkeypatch):
    monkeypatch.setitem(globals(), "_called", Comparison.kind())
    refused(check_outcome, Judged(subject="s"), says="'comparison', which is one of trimtab's own", name="Judged")
    refused(check_outcome, Judged, says="the class Judged is none", name="Judged")


def test_a_telling_without_a_record_is_named():
    class Dream(Outcome):
        """Told by nobody."""

    class DreamTelling(Telling[Dream]):
        """It does not say of what it tells."""

    refused(check_outcome, Dream(subject="s"), says="DreamTelling must set record", name="Dream")
    kept = hopes()
    check_outcome(Hope(subject="s"))  # it breaks no other
    assert DreamTelling and kept


# -- engines ---------------------------------------------------------------------------------------------------------


class Idle(LocalEngine):
    """Does nothing."""

    def run(self, *_, **__):
        raise OSError("no room")


def test_a_wrong_engine():
    refused(
        check_engine, LocalEngine, says="one that is made must be given.* the class LocalEngine", name="LocalEngine"
    )
    refused(check_engine, replace, says="one that is made must be given", name="replace")
    refused(check_engine, Idle(1), says="raises OSError: no room", name="Idle")
