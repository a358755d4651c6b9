"""Engines: where trials run."""

from trimtab.trial.engines.engine import Engine
from trimtab.trial.engines.local import LocalEngine
from trimtab.trial.engines.stacked import StackedEngine

__all__ = ["Engine", "LocalEngine", "StackedEngine"]
