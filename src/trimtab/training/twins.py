"""Checkpoints of treated models: a script saves the weights of its model and loads them into another one of the same class.

The other one is made as the script makes it, without what techniques have put in. It becomes a twin: it gets the same parts, hooks and norms as the
treated model has, so that what it computes with the loaded weights is what was saved. Weights that the script has from elsewhere know nothing of
our parts; these then stay as they are.

The last treated model of a class is kept for this, unless the names of its weights are those of an untreated one: of such weights nobody can tell
whose they are.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from trimtab.training.find import unwrap

_HOOKS = {  # with what else is said of a hook
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_load_state_dict_pre_hooks": (),
    "_load_state_dict_post_hooks": (),
    "_state_dict_hooks": (),
}
_PREFIXES = ("module.", "_orig_mod.")  # of wrappers
_load = nn.Module.load_state_dict


class Treated:
    """The models that techniques have changed, with the names that their weights had before: the last one of each class, also when its
    training is over. While there are any, weights that are loaded pass through :meth:`ready`."""

    def __init__(self) -> None:
        self._models: dict[type, tuple[nn.Module, set[str]]] = {}
        self._twins: weakref.WeakKeyDictionary[nn.Module, list[Callable[[], None]]] = weakref.WeakKeyDictionary()
        self._alone = False

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, every model that gets the weights of a treated one becomes its twin, also where their names do not tell: what runs is one
        script under one recipe. Elsewhere a model of the same class may well be meant to be without. Nothing is known before or afterwards."""
        before, self._models, self._alone = (self._models, self._alone), {}, True
        self._settle()
        try:
            yield
        finally:
            self._models, self._alone = before
            self._settle()

    def add(self, models: Iterable[nn.Module], names: Iterable[set[str]]) -> None:
        """Models were changed."""
        listed = list(models)
        self.discard(listed)
        for model, before in zip(listed, names, strict=True):
            if not self._alone and set(model.state_dict()) == before:
                continue
            self._models.pop(type(model), None)
            self._models[type(model)] = (model, before)
        self._settle()

    def discard(self, models: Iterable[nn.Module]) -> None:
        """Models are as they were before."""
        gone = {id(model) for model in models}
        self._models = {kind: one for kind, one in self._models.items() if id(one[0]) not in gone}
        self._settle()

    def revert(self, models: Iterable[nn.Module]) -> list[tuple[nn.Module, dict[str, Any]]]:
        """Make twins the models that the script has made, and give what they held: they are going to be treated themselves."""
        held = []
        for model in models:
            undo = self._twins.pop(model, None)
            if undo is not None:
                held.append((model, model.state_dict()))
                while undo:
                    undo.pop()()
        return held

    def _settle(self) -> None:
        if self._models and nn.Module.load_state_dict is _load:
            nn.Module.load_state_dict = self._wrapped()  # type: ignore[method-assign]
        elif not self._models and getattr(nn.Module.load_state_dict, "__wrapped__", None) is _load:
            nn.Module.load_state_dict = _load  # type: ignore[method-assign]

    def _wrapped(self) -> Callable:
        @functools.wraps(_load)
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                changed = self.ready(module, state_dict)
            except Exception as error:  # a model that cannot be copied, names of another kind
                changed = None
                warnings.warn(
                    f"{type(module).__name__} gets its weights, but not what techniques have changed: {error}",
                    stacklevel=2,
                )
            return _load(module, state_dict if changed is None else changed, *args, **kwargs)

        return load_state_dict

    def ready(self, module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Prepare a module for weights that are going to be loaded into it.

        Args:
            module: where they go.
            state: the weights by their names.

        Returns:
            The weights to load in the place of these; ``None`` for these.
        """
        roots, inner = list(reversed(self._models.values())), unwrap(module)
        for root, before in roots:
            path = next((path for path, part in root.named_modules() if part is inner), None)
            if path is not None:
                prefix = f"{path}." if path else ""
                return _completed(
                    module, state, {name.removeprefix(prefix) for name in before if name.startswith(prefix)}
                )
        names = _without_prefix(state)
        for original in (part for root, _ in roots for part in root.modules()):
            if type(original) is type(inner) and self._fits(original, inner, names):
                self._become_twin(inner, original)
                break
        return None

    def _fits(self, original: nn.Module, other: nn.Module, names: set[str]) -> bool:
        """Whether weights of these names are those of the original, and the other module is not the same already."""
        if names != set(original.state_dict()):
            return False
        return names != set(other.state_dict()) or (
            self._alone and other not in self._twins and any(True for _ in _ours(original))
        )

    def _become_twin(self, other: nn.Module, original: nn.Module) -> None:
        """Give a model all that the original has and it does not."""
        memo: dict[int, Any] = {}
        missing: list[tuple[nn.Module, str, nn.Module]] = []
        pairs: list[tuple[nn.Module, nn.Module]] = []
        undo: list[Callable[[], None]] = []
        _pair(original, other, memo, pairs, missing)
        device = next((tensor.device for tensor in other.state_dict().values()), torch.device("cpu"))
        for owner, name, part in missing:
            modules = dict(owner._modules)
            undo.append(lambda owner=owner, modules=modules: owner.__dict__.__setitem__("_modules", modules))  # type: ignore[misc]
            owner._modules[name] = copy.deepcopy(part, memo).to(device).train(owner.training)
        for one, twin in pairs:
            for name in [name for name in twin._modules if name not in one._modules]:
                modules = dict(twin._modules)
                undo.append(lambda owner=twin, modules=modules: owner.__dict__.__setitem__("_modules", modules))  # type: ignore[misc]
                del twin._modules[name]
            undo += _hooks_too(one, twin, memo)
        self._twins[other] = undo


def treated(model: nn.Module, before: set[str]) -> bool:
    """Whether techniques have put something into a model: parts, or hooks. ``before`` are the names its weights had."""
    return set(model.state_dict()) != before or any(True for _ in _ours(model))


def _without_prefix(state: Iterable[str]) -> set[str]:
    names = set(state)
    for prefix in _PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix) for name in names}
    return names


def _ours(model: nn.Module) -> Iterator[Any]:
    """Parts and hooks of techniques."""
    for module in model.modules():
        if type(module).__module__.startswith("trimtab."):
            yield module
        for kind in _HOOKS:
            yield from (hook for hook in getattr(module, kind).values() if _is_ours(hook))


def _is_ours(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)  # of a state_dict, with its module
    hook = getattr(hook, "func", hook)  # of a partial
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.startswith("trimtab.") and not home.startswith(("trimtab.training.", "trimtab.watching."))


def _pair(
    one: nn.Module,
    other: nn.Module,
    memo: dict[int, Any],
    pairs: list[tuple[nn.Module, nn.Module]],
    missing: list[tuple[nn.Module, str, nn.Module]],
) -> None:
    if id(one) in memo:
        return
    memo[id(one)] = other
    pairs.append((one, other))
    for kind in ("_parameters", "_buffers"):
        for name, tensor in getattr(one, kind).items():
            if tensor is not None:
                memo[id(tensor)] = getattr(other, kind).get(name)
    for name, child in one._modules.items():
        twin = other._modules.get(name)
        if child is not None and twin is not None and _alike(child, twin):
            _pair(child, twin, memo, pairs, missing)
        elif child is not None:
            missing.append((other, name, child))


def _alike(one: nn.Module, other: nn.Module) -> bool:
    def own(module: nn.Module) -> dict[str, Any]:
        tensors = {**module._parameters, **module._buffers}
        return {name: None if tensor is None else tensor.shape for name, tensor in tensors.items()}

    return type(one) is type(other) and own(one) == own(other)


def _hooks_too(one: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> list[Callable[[], None]]:
    undo: list[Callable[[], None]] = []
    for kind in _HOOKS:
        memo[id(getattr(one, kind))] = getattr(twin, kind)
    for kind, also in _HOOKS.items():
        there, here = getattr(one, kind), getattr(twin, kind)
        for key, hook in there.items():
            if not _is_ours(hook) or key in here:
                continue
            here[key] = copy.deepcopy(hook, memo)
            undo.append(lambda here=here, key=key: here.pop(key, None))  # type: ignore[misc]
            for listed in also:
                if key in getattr(one, listed):
                    getattr(twin, listed)[key] = getattr(one, listed)[key]
    return undo


def restore(held: Iterable[tuple[nn.Module, dict[str, Any]]]) -> None:
    """Load what :func:`revert` gave into the models as they are now."""
    for model, state in held:
        own = model.state_dict()
        model.load_state_dict({**own, **{name: value for name, value in state.items() if name in own}})


def _completed(module: nn.Module, state: Mapping[str, Any], before: set[str]) -> dict[str, Any] | None:
    """Weights for a treated module that come from an untreated one: our parts keep their values, what we renamed is found."""
    own = module.state_dict()
    missing, extra = own.keys() - state.keys() - before, (state.keys() - own.keys()) & before
    if not missing and not extra:
        return None
    changed = {name: value for name, value in state.items() if name not in extra}
    for name in missing:
        path, _, last = name.partition("parametrizations.")
        plain = path + last.removesuffix(".original")
        changed[name] = state[plain] if last.endswith(".original") and plain in extra else own[name]
    return changed
