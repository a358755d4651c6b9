"""Engines: where trials run."""

from trimtab.trial.engines.local import LocalEngine

__all__ = ["LocalEngine"]
