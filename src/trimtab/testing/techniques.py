"""What every technique holds: it changes a training and says what, can be undone bit for bit, copied, read back, and is documented."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import torch
from torch import nn

from trimtab.cli.cards import GROUPS, card_of
from trimtab.recipe import MOMENTS, Change, Event, NothingToDo, Recipe, RecipeError, Suite, Technique, technique_class
from trimtab.testing.traces import (
    Hook,
    blamed,
    check_class,
    described,
    drawn_since,
    hooks_of,
    new_hooks,
    random_states,
)
from trimtab.testing.trainings import Data, clusters, network, same, state, train
from trimtab.training import Training, attach

KINDS = ("mlp", "cnn")


def check_technique(technique: type[Technique], data: Data | None = None) -> None:
    """Run the suite that all techniques pass; what is special of this one stands in its ``suite``.

    Args:
        technique: a class derived from :class:`trimtab.Technique`, decorated with ``@dataclass(frozen=True)``.
        data: inputs (N, 64) and ten classes that it can be tried on; clusters of points by default.

    Raises:
        AssertionError: with what must hold.
    """
    check_declared(technique)
    text, data = text_of(technique), data or clusters()
    for check in CHECKS:
        for kind in KINDS if check in ON_BOTH else KINDS[:1]:
            with blamed(text, f"where a technique {check.__name__.replace('_', ' ')}, it"):
                check(text, kind, data)
    with blamed(technique.name, "its card"):
        check_documentation(technique)


def check_declared(technique: type[Technique]) -> None:
    """It is a dataclass of its own with an ``apply``, and what it says of itself beside its settings is known here.

    Raises:
        AssertionError: with what must hold.
    """
    check_class(technique, Technique)
    name = technique.name
    frozen = "__dataclass_fields__" in vars(technique) and technique.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert frozen, f"{name}: its class {technique.__name__} must be decorated with @dataclass(frozen=True)"
    assert technique.apply is not Technique.apply, f"{name}: it must have apply(training), which gives a Change"
    groups = card_of(technique).groups
    assert groups and all(group in GROUPS for group in groups), (
        f"{name}: group={technique.group!r} must be one of {', '.join(GROUPS)}, or several of these"
    )
    assert isinstance(technique.suite, Suite), f"{name}: suite={technique.suite!r} must be a Suite"
    assert isinstance(technique.clashes, Mapping), f"{name}: clashes must be a dict, from names to reasons"
    for other, reason in technique.clashes.items():
        with blamed(name, f"clashes names {other!r}, which must be a technique, and looking for it"):
            technique_class(other)
        assert isinstance(reason, str) and reason.strip(), f"{name}: it clashes with {other}, and gives no reason"
    with blamed(name, f"suite.text={technique.suite.text!r} must be a recipe of it alone, and reading it"):
        recipe = Recipe.parse(text_of(technique))
    assert [type(one) for one in recipe] == [technique], (
        f"{name}: suite.text={technique.suite.text!r} is another recipe"
    )


def text_of(technique: type[Technique]) -> str:
    """A setting with which a technique acts within a few steps."""
    return technique.suite.text or technique.name


def suite_of(text: str) -> Suite:
    """What the technique of a recipe of one says of itself to the suite."""
    return next(iter(Recipe.parse(text))).suite


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam would hide a change in the length of gradients."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer with moments."""
    return torch.optim.AdamW(parameters, lr=0.01)


def attached(
    kind: str, text: str = "", make: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer] = adamw
) -> tuple[nn.Module, torch.optim.Optimizer, Training]:
    """A training of the network that the techniques of a text need, or of this kind."""
    model = network(next((t.suite.network for t in Recipe.parse(text) if t.suite.network), kind) if text else kind)
    optimizer = make(model.parameters())
    return model, optimizer, attach(model, optimizer)


def shaped(model: nn.Module, data: Data) -> Data:
    """The data as the network takes them."""
    x, y = data
    return (x.view(-1, 1, 8, 8) if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv2d) else x), y


def changes_the_training_and_says_what(text: str, kind: str, data: Data) -> None:
    """With it the losses or the weights are other ones, and the change says so."""
    model, optimizer, training = attached(kind, text, sgd)
    plain_model, plain_optimizer, _ = attached(kind, text, sgd)
    plain = train(plain_model, plain_optimizer, shaped(plain_model, data))
    training.apply(text)
    for change in training.changes:
        assert isinstance(change, Change), f"{text}: apply(training) must give a Change, and gives {described(change)}"
    if suite_of(text).judged:  # by a metric that gets worse with every step
        training.on("step", lambda loss: training.evaluated("val loss", training.step))
    treated = train(model, optimizer, shaped(model, data))
    if suite_of(text).same_losses == "takes away what has no effect":
        torch.testing.assert_close(treated, plain, rtol=1e-4, atol=1e-4)
    elif suite_of(text).same_losses == "acts in evaluation":
        assert treated == plain, f"{text}: it says that it acts in evaluation, and changes the losses of training"
        x = shaped(model, data)[0]
        with torch.no_grad():
            assert not torch.equal(model.eval()(x), plain_model.eval()(x)), f"{text}: evaluation is what it was"
    else:
        pairs = zip(_weights(model), _weights(plain_model), strict=True)
        changed = treated != plain or any(not torch.equal(p, q) for p, q in pairs)
        assert changed, f"{text}: losses and weights are what they are without it"
    assert len(training.changes) == 1 and training.changes[0].summary, f"{text}: the change has no summary"
    assert training.changes[0].acted(), f"{text}: acted() is False, although it has an effect"


def _weights(model: nn.Module) -> list[torch.Tensor]:
    added = ("norm", "standardize", "dropout", "ensemble")
    return [p for name, p in model.named_parameters() if not any(word in name for word in added)]


def undo_restores_bit_for_bit(text: str, kind: str, data: Data) -> None:
    """After apply and undo a live training is what it was: parameters, moments, identities, hooks, and the steps that follow."""
    model, optimizer, training = attached(kind, text)
    train(model, optimizer, shaped(model, data), 2)  # a live training: the optimizer has moments
    before = state(model, optimizer)
    identities = [id(p) for p in model.parameters()]
    twin, twin_optimizer = copy.deepcopy((model, optimizer))  # which nobody treats
    random, hooks, built, heard = random_states(), _hooks(model, optimizer), _built(model), _heard(training)
    training.apply(text).undo()
    drawn, left = drawn_since(random), new_hooks(hooks, _hooks(model, optimizer))
    assert not drawn, f"{text}: apply and undo draw from {drawn} generator; take training.generator"
    assert same(state(model, optimizer), before), f"{text}: undo leaves another training"
    assert [id(p) for p in model.parameters()] == identities, f"{text}: undo leaves other parameters"
    assert not left, f"{text}: undo must leave the hooks as they were, and there are others: {left}"
    assert _built(model) == built, f"{text}: undo must leave modules of the same classes with the same attributes"
    assert _heard(training) == heard, (
        f"{text}: undo must end what it began with training.on(...), change_...(...) or add_loss(...)"
    )
    losses = []
    for one, its in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(0)
        losses.append(train(one, its, shaped(one, data), 2))
    assert losses[0] == losses[1], f"{text}: after undo the next losses are {losses[0]}, and untreated {losses[1]}"
    assert same(model.state_dict(), twin.state_dict()), f"{text}: after undo a step makes other weights than untreated"


def _hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Hook]:
    return hooks_of(model.modules(), model.parameters(), [optimizer])


def _built(model: nn.Module) -> list[tuple[type, set[str]]]:
    return [(type(module), set(vars(module))) for module in model.modules()]


def _heard(training: Training) -> tuple[set[str], int]:
    return set(filter(training.listens_to, get_args(Event))), training.asking


def keeps_parameters_and_their_moments(text: str, kind: str, data: Data) -> None:
    """The parameters of the script stay, in the optimizer with their moments; new ones join it."""
    model, optimizer, training = attached(kind, text)
    train(model, optimizer, shaped(model, data), 2)
    old = list(model.parameters())
    training.apply(text)
    now = {id(p) for p in model.parameters()}
    suite = suite_of(text)
    kept = all(id(p) in now for p in old) or suite.same_losses == "takes away what has no effect"
    assert kept, f"{text}: parameters of the script are gone"
    held = sum(len(g["params"]) for g in optimizer.param_groups)
    assert held == len(list(model.parameters())), (
        f"{text}: the optimizer holds {held} parameters, not those of the model"
    )
    if "init" not in text and not suite.anew:
        moments = all("exp_avg" in optimizer.state[p] for p in old if id(p) in now)
        assert moments, (
            f"{text}: the optimizer has forgotten moments; a technique with which it begins anew says suite.anew"
        )
    train(model, optimizer, shaped(model, data), 2)
    if suite.anew:
        assert all(optimizer.state[p] for p in model.parameters()), f"{text}: parameters are not trained"
        training.undo()
    assert all("exp_avg" in optimizer.state[p] for p in model.parameters()), f"{text}: parameters are not trained"


def text_and_toml_read_back(text: str, kind: str, data: Data) -> None:
    """What it prints as is read as the same."""
    recipe = Recipe.parse(text)
    assert Recipe.parse(str(recipe)) == recipe, f"{text}: its text reads back as another recipe"
    assert Recipe.from_toml(recipe.to_toml()) == recipe, f"{text}: its TOML reads back as another recipe"


def draws_nothing_from_the_global_generator(text: str, kind: str, data: Data) -> None:
    """Random numbers come from ``training.generator``: those of the script stay what they are without it."""
    model, optimizer, training = attached(kind, text)
    before = random_states()
    training.apply(text)
    train(model, optimizer, shaped(model, data), 2)
    drawn = drawn_since(before)
    assert not drawn, f"{text}: it draws from {drawn} global generator; take training.generator"


def same_seed_same_result(text: str, kind: str, data: Data) -> None:
    """Two trainings alike are alike."""
    losses = []
    for _ in range(2):
        model, optimizer, training = attached(kind, text)
        training.apply(text)
        losses.append(train(model, optimizer, shaped(model, data)))
    assert losses[0] == losses[1], f"{text}: two trainings of one seed differ"


def survives_deepcopy_and_checkpoint(text: str, kind: str, data: Data) -> None:
    """A copy of the model, and a state_dict loaded into another treated model, evaluate as it does."""
    model, optimizer, training = attached(kind, text)
    training.apply(text)
    train(model, optimizer, shaped(model, data), 3)
    model.eval()
    x = shaped(model, data)[0][:8]
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(copy.deepcopy(model)(x), expected, rtol=0, atol=0)
    other, _, again = attached(kind, text)
    again.apply(text)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), expected, rtol=0, atol=0)


def is_loud_when_it_finds_nothing(text: str, kind: str, data: Data) -> None:
    """On whole numbers in, a regression loss, no layer with weights proper and no evaluation it is refused, or says that it never acted."""
    if suite_of(text).always:
        return
    model = nn.Embedding(4, 4)
    training = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        training.apply(text)
    except NothingToDo as error:
        assert re.fullmatch(r".+ found nothing to act on: .+\.", str(error)), f"{text}: {error}"
        assert training.changes == [], f"{text}: it has refused and left a change"
        return
    for _ in range(3):  # some can only tell once the training runs
        training.optimizers[0].zero_grad()
        nn.functional.mse_loss(model(torch.arange(4)), torch.zeros(4, 4)).backward()
        training.optimizers[0].step()
    acted = training.changes[0].acted()
    assert not acted, (
        f"{text}: it found nothing to act on and says that it acted; or is it of use always (suite.always)?"
    )


CHECKS: tuple[Callable[[str, str, Data], None], ...] = (
    changes_the_training_and_says_what,
    undo_restores_bit_for_bit,
    keeps_parameters_and_their_moments,
    text_and_toml_read_back,
    draws_nothing_from_the_global_generator,
    same_seed_same_result,
    survives_deepcopy_and_checkpoint,
    is_loud_when_it_finds_nothing,
)
ON_BOTH = (changes_the_training_and_says_what, undo_restores_bit_for_bit)  # kinds of networks


def check_documentation(technique: type[Technique]) -> None:
    """The card says when it helps and when it hurts, where it comes from, what every setting means, and its example runs."""
    name = technique.name
    moments = MOMENTS[technique.acts_on]
    assert technique.moment in moments, f"{name}: moment={technique.moment!r} must be one of {', '.join(moments)}"
    card = inspect.getdoc(technique) or ""
    for part in ("Helps:", "Hurts:", "Source:", ">>> "):
        assert part in card, f"the card of {name} lacks {part!r}"
    for field in dataclasses.fields(technique):  # type: ignore[arg-type]
        assert f"{field.name}:" in card, f"the card of {name} does not explain {field.name}"
    check_examples(technique, name)


def check_examples(thing: object, name: str) -> None:
    """The examples in a docstring give what they say."""
    globs = dict(vars(sys.modules[thing.__module__]))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs=globs):
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not runner.summarize(verbose=False).failed, "".join(said)


def check_pair(texts: tuple[str, str], data: Data | None = None) -> None:
    """Two techniques together are a recipe, in whatever order they are written, or are refused with a reason in both.

    Raises:
        AssertionError: with what must hold.
    """
    data = data or clusters()
    try:
        recipe = Recipe.parse(", ".join(texts))
    except RecipeError as error:
        assert "cannot be combined with" in str(error), f"{texts}: {error}"
        try:
            Recipe.parse(", ".join(reversed(texts)))
        except RecipeError as other:
            assert str(other) == str(error), f"{texts}: refused with one reason in this order and another in the other"
            return
        raise AssertionError(f"{texts}: refused in this order, and not in the other") from error
    assert Recipe.parse(", ".join(reversed(texts))) == recipe, f"{texts}: the order decides what the recipe is"
    model, optimizer, training = attached("mlp", str(recipe))
    before = state(model, optimizer)
    try:
        training.apply(recipe)
    except NothingToDo as error:  # what one does leaves the other nothing to do
        assert "found nothing to act on: " in str(error), f"{texts}: {error}"
        assert same(state(model, optimizer), before), f"{texts}: refused, and something was changed"
        return
    losses = torch.tensor(train(model, optimizer, shaped(model, data)))
    assert torch.isfinite(losses).all(), f"{texts}: the losses are {losses.tolist()}"
    training.undo()
    assert before[0].keys() == model.state_dict().keys(), f"{texts}: undo leaves another model"
