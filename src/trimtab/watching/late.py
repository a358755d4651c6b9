"""Being called when a package has been imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trimtab.training.safe import suppressed
from trimtab.training.stage import stage

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
    return stage.own(Late).wait(name, call)


class Late(importlib.abc.MetaPathFinder):
    """Stands among the finders exactly while a module is waited for, and calls back when it has been imported."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Call]] = {}

    def wait(self, name: str, call: Call) -> Callable[[], None]:
        """Call ``call(module)`` once the module has been imported; the returned function ends the waiting."""
        self._waiting.setdefault(name, []).append(call)
        self._settle()

        def stop() -> None:
            calls = self._waiting.get(name, [])
            if call in calls:
                calls.remove(call)
                if not calls:
                    del self._waiting[name]
                self._settle()

        return stop

    def _settle(self) -> None:
        if self._waiting and self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        elif not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._waiting:
            return None
        then = self._waiting.pop(name)
        self._settle()
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
