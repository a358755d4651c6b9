"""What every part holds: its documentation is complete and its examples run, and copies of a module are the module."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import torch
from torch import nn

from trimtab.cli.cards import GROUPS, card_of
from trimtab.testing.techniques import check_examples
from trimtab.testing.traces import alike, blamed, described, drawn_since, name_of, random_states, tensors_held
from trimtab.testing.trainings import same


def check_part(part: Any, made: nn.Module | None = None, x: torch.Tensor | None = None) -> None:
    """Run the suite that all parts pass.

    Args:
        part: a class or function for people who write their own code.
        made: of a module class, one that is to be tried.
        x: what that is called with.

    Raises:
        AssertionError: with what must hold.
    """
    name = name_of(part)
    assert callable(part) and hasattr(part, "__name__"), (
        f"{name}: a part must be a class or a function, and is {described(part)}"
    )
    with blamed(name, "its card"):
        check_card(part)
        check_examples(part, name)
    if made is not None and x is not None:
        assert isinstance(made, nn.Module), f"{name}: made must be a module, and is {described(made)}"
        with blamed(name, "calling it"):
            _check_module(name, made, x)


def check_card(part: Any) -> None:
    """The docstring says what the part does, by which formula, when it helps and hurts, who found it, and what every setting means.

    Raises:
        AssertionError: with what it lacks.
    """
    assert part.__doc__, f"{part.__name__}: it needs a docstring of its own"
    card = card_of(part)
    name, text = card.name, card.text
    known = card.groups and all(group in GROUPS for group in card.groups)
    assert known, f"{name}: its file must say GROUP, one of {', '.join(GROUPS)}, and says {card.groups}"
    for what in ("meaning", "formula", "helps", "hurts", "source"):
        assert getattr(card, what), f"the docstring of {name} does not give its {what}"
    assert ">>> " in text, f"the docstring of {name} lacks an example"
    signature = inspect.signature(part)
    settings = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for setting in settings:
        assert setting in text, f"the docstring of {name} does not explain {setting}"


def _check_module(name: str, module: nn.Module, x: torch.Tensor) -> None:
    module.eval()
    given = x.clone()
    with torch.no_grad():
        random = random_states()
        expected = module(x)
        drawn = drawn_since(random)
        assert not drawn, f"{name}: in evaluation mode it draws random numbers, of {drawn} generator"
        assert alike(x, given), f"{name}: in evaluation mode it writes into its input"
        copies = {
            "copy.deepcopy": copy.deepcopy(module),
            "pickle": pickle.loads(pickle.dumps(module)),
            "load_state_dict": _loaded(module),
        }
        for how, twin in copies.items():
            assert same(twin(x), expected), f"{name}: after {how} it gives something else"
    module.train()
    y = module(x)
    assert alike(x, given), f"{name}: in training mode it writes into its input"
    if any(p.requires_grad for p in module.parameters()):
        sum(one.sum() for one in tensors_held(y)).backward()  # type: ignore[union-attr]
        missing = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, f"{name}: no gradient reaches {', '.join(missing)}"


def _loaded(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    twin.load_state_dict(module.state_dict())
    return twin
