"""Engines: where trials run."""

from trimtab.trial.engines.engine import Engine
from trimtab.trial.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
