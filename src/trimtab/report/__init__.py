"""``trimtab.report("train.py")`` gives the report of a run and of what was tried on it; a notebook shows its page.

Given are a script that was watched, the folder of a store, a record of a run, a recorder, or an outcome; without one it is the newest run.
A ``path`` says where the page is written: ``trimtab.report("train.py", "report.html")``. All arguments: ``help(trimtab.reporting.report)``.

The module is the room of reports: one HTML page that opens anywhere, a summary for the terminal, and the verdict that both share.

>>> from trimtab.report import verdict
>>> from trimtab.records import RunRecord, TrainingRecord
>>> verdict(RunRecord(id="r1", subject="train.py", trainings=(TrainingRecord(name="model", model="Sequential"),)))
'No rule found a fault'
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from trimtab.records import drawing
from trimtab.report.verdict import verdict

if TYPE_CHECKING:
    from trimtab.report.page import write_page
    from trimtab.report.terminal import comparison_view, findings_view, outcome_view, summary

__all__ = ["comparison_view", "findings_view", "outcome_view", "summary", "verdict", "write_page"]


def __getattr__(name: str) -> Any:
    if name == "write_page":  # numpy is imported with the first page
        from trimtab.report.page import write_page

        return write_page
    if name in __all__:  # and rich with the first view
        from trimtab.report import terminal

        return getattr(terminal, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Room(types.ModuleType):
    """``trimtab.report`` is this room, and called, the report of something: ``trimtab.report("train.py")``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return drawing().report(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(drawing().report)


sys.modules[__name__].__class__ = _Room
