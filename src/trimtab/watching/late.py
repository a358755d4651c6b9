"""Being called when a package has been imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trimtab.training.safe import suppressed

Call = Callable[[ModuleType], None]


def when_imported(name: str, call: Call) -> Callable[[], None]:
    """Call ``call(module)`` now if the module is there, else once it has been imported; the returned function ends the waiting.

    >>> stop = when_imported("json", lambda module: print(module.__name__))
    json
    >>> stop()
    """
    if name in sys.modules:
        with suppressed():  # not ours: it may be of another version than we know
            call(sys.modules[name])
        return lambda: None
    _finder.waiting.setdefault(name, []).append(call)
    _settle()

    def stop() -> None:
        calls = _finder.waiting.get(name, [])
        if call in calls:
            calls.remove(call)
            if not calls:
                del _finder.waiting[name]
            _settle()

    return stop


def _settle() -> None:
    """Stand among the finders exactly while something is waited for."""
    if _finder.waiting and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    elif not _finder.waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Late(importlib.abc.MetaPathFinder):
    """Calls back when one of the modules that are waited for has been imported."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Call]] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.waiting:
            return None
        then = self.waiting.pop(name)
        _settle()
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Then(spec.loader, then)
                return spec
        return None


class _Then(importlib.abc.Loader):
    """A loader, and what is done when it has loaded; nothing of it stays in the module."""

    def __init__(self, loader: Any, then: list[Call]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for call in self._then:
            with suppressed():
                call(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


_finder = _Late()
