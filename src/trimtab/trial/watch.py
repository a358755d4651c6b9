"""Watching a subject in this process."""

from __future__ import annotations

import os
import warnings

from trimtab.doctor import diagnose
from trimtab.records import Asked, RunRecord
from trimtab.store import Store, StoreError
from trimtab.trial.subjects import Heard, Subject, subject_of
from trimtab.user_folders import remember_store
from trimtab.watching import Recorder, WatchWarning


def watch(subject: Subject | str | os.PathLike, *, metric: str | Asked | None = None, every: int = 10) -> RunRecord:
    """Run a script as it is, in this process, and give the record of the run: ``trimtab watch`` for Python and notebooks.

    What it prints is printed; an exception in it ends it, is shown, and stands in the record. The record is kept in ``.trimtab/``
    beside the script: :func:`trimtab.diagnose` reads it, :func:`trimtab.report` shows it.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        metric: what judges: a regular expression that reads a number from the output, the name of a number, or
            :class:`~trimtab.records.Asked` for more; found by itself if ``None``.
        every: measure layers and gradients every so many steps.

    Raises:
        SubjectError: if there is no such script.
    """
    subject = subject_of(subject)
    store = None
    try:
        store = Store(subject.folder)
        remember_store(subject.folder)
    except StoreError as error:
        warnings.warn(
            f"{error} This run is watched all the same; its record stays in memory.", WatchWarning, stacklevel=2
        )
    recorder = Recorder(subject.label, store, metric, every=every)
    guard = recorder.guard
    heard = Heard(
        training=guard(recorder.watch),
        line=guard(recorder.line),
        evaluated=guard(recorder.evaluated),
        written=guard(recorder.written),
    )
    outcome = subject.run(heard)
    recorder.exit_code, recorder.error = outcome.exit_code, outcome.error
    run = recorder.close()
    if store is not None:
        if recorder.store is not None:
            store.put_findings(run.id, diagnose(run))
        store.close()
    return run
