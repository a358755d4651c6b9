"""A session of trials on one subject: what is finished is taken from the store, the rest is run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.quantities import offers, unanswered
from trimtab.recipe import Recipe
from trimtab.records import Asked, Flow, Metric, Remark, RunRecord, Series, Trial, Watched, drawing, remark
from trimtab.store import Store, report_command
from trimtab.trial.engines import Engine, LocalEngine
from trimtab.trial.engines.engine import EngineError, Written
from trimtab.trial.kept import UNREADABLE, Kept
from trimtab.trial.live import Live, Report
from trimtab.trial.progress import shown_bar
from trimtab.trial.rates import climb, steps_of
from trimtab.trial.run import BASELINE, Job, Result, untreated_trial
from trimtab.trial.sources import Sources
from trimtab.trial.subjects import Script, Subject, subject_of
from trimtab.trial.terms import Progress, Silent
from trimtab.trial.views import changed_since

START = 0.3  # seconds that a trial needs besides its script


class TrialError(RuntimeError):
    """The subject cannot be judged: it crashes, never trains, or has no metric."""


class Session:
    """Trials of one subject, kept in its store and never run twice.

    A trial is kept under what makes it the same trial: the subject (for a script, its text, that of the modules beside it
    which it imports, and its arguments), the recipe, the seed and the metric. Data files and installed packages
    are not looked at; ``fresh`` runs everything again. Failed trials are not kept: another session tries them again.

    Args:
        subject: what to run.
        metric: what the subject is judged by: a regular expression that reads a number from the output, the name of a number, or
            :class:`~trimtab.records.Asked` for more; found by itself if ``None``.
        engine: where to run; worker processes on this machine by default.
        progress: what is told meanwhile; a progress bar by default, where standard error is a terminal.
        budget: seconds for all of it; no trial is started or runs on after it.
        steps: of every run, at most; 0 for whole runs.
        fraction: the same as a share of a whole run.
        fresh: take nothing from the store.
        began: since when the budget counts (monotonic); from now on by default.
        closing: seconds of the budget that are needed behind the last trial.

    Attributes:
        reused: how many finished runs were taken from an earlier session.
    """

    def __init__(
        self,
        subject: Subject | str | os.PathLike,
        metric: str | Asked | None = None,
        engine: Engine | None = None,
        progress: Progress | None = None,
        budget: float = float("inf"),
        steps: int = 0,
        fraction: float = 1.0,
        fresh: bool = False,
        began: float | None = None,
        closing: float = 0.0,
    ) -> None:
        self.subject = subject_of(subject)
        if steps < 0 or not 0 < fraction <= 1 or (steps and fraction < 1):
            raise ValueError(
                f"steps={steps} and fraction={fraction} must be at least 0 and in (0, 1], and at most one of them given: "
                "steps=2000, or fraction=0.2 of a whole run."
            )
        self.steps, self.fraction, self.whole = steps, fraction, 0  # the last: steps of a whole run, if it is known
        self.asked = metric if isinstance(metric, Asked) else Asked(metric=metric)
        self.engine = engine or LocalEngine()
        if not isinstance(self.engine, Engine):
            raise TypeError(
                f"engine must be an instance of a class derived from trimtab.trial.engines.Engine, and is {self.engine!r}. "
                "LocalEngine() runs trials on this machine."
            )
        self.progress: Progress = progress or Silent()
        self._told = progress is not None
        self._bar = contextlib.ExitStack()
        self.fresh = fresh
        self._kept = Kept(self.subject.folder, fresh)
        self.started = time.monotonic() if began is None else began
        self.budget = budget
        self.stop_at = self.started + budget - closing
        self.metric: Metric | None = None
        self._taken: RunRecord | None = None  # the run that the session began with
        self.expected = 0.0  # seconds of an untreated trial
        self.later = 0.0  # seconds that are expected to follow the next stage
        self._steps = self._longest = 0  # of an untreated run: of all its trainings, and of the longest
        self._slow: deque[float] = deque(maxlen=8)  # how many times as long as expected the newest trials took
        self.flows: tuple[Flow | None, ...] = ()  # of the models, by training
        self.sources = Sources(self.subject, self._kept)
        self.reused = 0

    def __enter__(self) -> Session:
        if not self._told:
            self.progress = self._bar.enter_context(shown_bar(self.engine.workers)) or self.progress
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self.engine.close()
        self._kept.close()

    def admit(self, edits: Mapping[str, Script]) -> None:
        """These edits of the subject are arms, too, beside recipes and those that are, by the names that they have in tables.

        Raises:
            TrialError: if one cannot be tried here.
        """
        for name, edit in edits.items():
            if why := self.engine.refuses(edit):
                raise TrialError(f"The version {name} cannot be tried here: {why}.")
        self.sources.add(edits)

    def watch(self) -> RunRecord:
        """Run the subject as it is, once and watched, and settle the metric. A watched run of the same subject is reused.

        Raises:
            TrialError: if it crashes, never trains or cannot be measured.
        """
        if self.fraction < 1 and not self.steps:
            self._cut(self._watch("watching one whole run"))
        return self._watch("watching one run")

    def _cut(self, run: RunRecord) -> None:
        """Runs are to be a fraction of this one."""
        self.whole = run.main.steps if run.main else 0
        self.steps = max(1, round(self.fraction * self.whole))
        self.sources.settle(None)

    def _watch(self, stage: str) -> RunRecord:
        left = self.stop_at - time.monotonic()  # with a budget, that is known
        self.progress.stage(stage, 1, left if math.isfinite(left) else 0.0)
        job = Job(self.subject, "", 0, asked=self.asked, watch=True, steps=self.steps)
        run, trial = self._watched_before(job.key)
        before = run is not None
        if run is None or trial is None:
            results: list[Result] = []
            self._run([job], lambda _, result: results.append(result), keep=self._written, stop_at=self.stop_at)
            if not results and time.monotonic() >= self.stop_at:
                raise TrialError(
                    f"The budget of {self.budget:.3g} s was over before {self.subject.label} came to its end by itself, which is what "
                    "everything is compared with. Give more, or look at the beginning of its runs alone: --steps N, --fraction 0.2."
                )
            if not results:
                raise TrialError(
                    f"{type(self.engine).__name__}.run came back without calling done(job, result) for its one job."
                )
            run, trial, deeds = results[0].run, results[0].trial, results[0].deeds
            self._check_unchanged()
            if trial.status == "failed":
                raise TrialError(self._explain(results[0]))
            assert run.metric is not None
            self.metric = run.metric
            self.sources.settle(deeds.seen)
            # the watched run is the untreated trial of seed 0: watching changes nothing
            self._kept.put(self._job("", 0).key, trial)
            watched = Watched(run=run.id, seen=deeds.seen, outside=deeds.paths)
            self.keep(lambda store: store.put_watched(job.key, watched))
        self._know(run)
        self.reused += before
        self.progress.advance(trial, before)
        return run

    def take(self, name: str) -> RunRecord:
        """Start from a run of this subject that was watched before; it is the untreated trial of seed 0.

        Raises:
            TrialError: if there is no such run, it cannot be measured, or the subject is another by now.
        """
        run = None
        if self.store is not None:
            with contextlib.suppress(*UNREADABLE):
                run = self.store.run(name)
        if run is None or run.subject != self.subject.label:
            known = f"It is one of {run.subject}." if run is not None else "See trimtab report --list."
            raise TrialError(f"There is no run {name!r} of {self.subject.label} in {self.subject.folder}. {known}")
        if self.fraction < 1 and not self.steps and not run.cut:
            self._cut(run)
        if run.cut and run.cut != self.steps:
            raise TrialError(
                f"The run {name} was ended after its first {run.cut:,} steps, as was asked for, so it is not what other trials would be. "
                f"Start from one that came to its end, or give --steps {run.cut}."
            )
        if self.steps:
            if not run.cut:
                self.say(f"The first {self.steps:,} steps are watched by themselves: {name} is a whole run.")
            return self._watch("watching one run")
        changed, watched = self.sources.take(run, Job(self.subject, "", 0, asked=self.asked, watch=True).key)
        self._refuse_changed(changed, run)
        if watched is not None and watched.outside:
            self.engine.one_at_a_time(self.subject, watched.outside)
        self._taken, self.metric = run, run.metric
        trial = untreated_trial(self._job("", 0), run)
        if run.metric is None or trial.status == "failed":
            raise TrialError(self._explain(Result(trial, run)))
        self._kept.put(self._job("", 0).key, trial)
        self._know(run)
        return run

    def _refuse_changed(self, changed: Sequence[str], run: RunRecord | None) -> None:
        if changed and run is not None:
            raise TrialError(
                f"{', '.join(changed[:3])} changed after the run {run.id} of {self.subject.label} was watched, so its trials would be of "
                "something else. Have it watched again: leave --from away."
            )

    def _know(self, run: RunRecord) -> None:
        """What the watched run tells of the trials to come."""
        self.metric, self.flows = run.metric, tuple(training.flow for training in run.trainings)
        self.expected = run.seconds + START
        self._steps = sum(training.steps for training in run.trainings)
        self._longest = run.main.steps if run.main else 0

    def rounds(self, trials: int, share: float = 1.0) -> float:
        """Seconds that so many trials of such a share are expected to take, as slow as those until now; workers run side by side."""
        slow = statistics.median(self._slow) if self._slow else 1.0
        return math.ceil(trials / self.engine.workers) * (START + share * (self.expected - START) * slow)

    def _job(self, recipe: str, seed: int, **more: Any) -> Job:
        """A job under a recipe; or, under the name of an edit, of that as it is."""
        read = self.sources.read(recipe)
        job = Job(self.subject, recipe, seed, self.metric, self.asked, steps=self.steps, found=read, flows=self.flows)
        if (edit := self.sources.edits.get(recipe)) is not None:
            job = dataclasses.replace(job, subject=edit, recipe=BASELINE, arm=recipe, flows=())
        return dataclasses.replace(job, **more)

    def _run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        report: Callable[[Job, Report], str] = lambda job, said: "",
        of: int = 0,
        **more: Any,
    ) -> None:
        def heard(job: Job, said: Report) -> str:
            if said.loss is None:
                return report(job, said)
            self.progress.running(job.name, job.seed, said.step, of, said.loss)
            return ""

        def ended(job: Job, result: Result) -> None:
            self._refuse_changed(self.sources.met(job, result), self._taken)
            done(job, _with_last_line(result) if job.arm else result)

        try:
            self.engine.run(jobs, ended, report=heard, **more)
        except EngineError as error:
            raise TrialError(f"{self.subject.label} could not be tried: {error}") from error

    def _written(self, written: Written) -> None:
        """A watched run has told what it recorded."""
        self.keep(lambda store: getattr(store, written.method)(*written.arguments, **written.options))

    def _watched_before(self, key: str) -> tuple[RunRecord | None, Trial | None]:
        """The watched run of an earlier session, if all that it read is still as it was."""
        watched = self.sources.watched(key)
        if watched is None or changed_since(watched.seen):
            return None, None
        run = self._kept.read(lambda store: store.run(watched.run))
        if run is None or run.metric is None:
            return None, None
        self.metric = run.metric
        self.sources.settle(watched.seen)
        trial, _ = self._kept.get(self._job("", 0).key)
        if trial is None:
            return None, None
        if watched.outside:
            self.engine.one_at_a_time(self.subject, watched.outside)
        return run, trial

    def _explain(self, result: Result) -> str:
        """What went wrong in the untreated run, what it printed last, and where its record is."""
        trial, run, label = result.trial, result.run, self.subject.label
        if "without a single optimizer step" in trial.error:
            said = (
                f"{label} ended without a single torch.optim step, so there is nothing to treat. "
                "trimtab sees trainings that call backward() and optimizer.step()."
            )
        elif "has no metric" in trial.error:
            said = (
                unanswered(self.asked, run)
                if self.asked.metric
                else f"{label} trains, but neither a loss nor a metric was seen. "
                + (
                    f"Seen were: {seen}."
                    if (seen := offers((), run.hints))
                    else "Let it print one, and read it with --metric 'acc=([0-9.]+)'."
                )
            )
        else:
            said = f"{label} failed, so there is nothing to compare with: {trial.error}."
        if self.steps:
            said += f" It was ended after {self.steps:,} steps, as asked: what it says later is not known then."
        if log := result.log.strip():
            said += f"\nIt printed last:\n{log}"
        if run.id and run.main is not None and run.main.steps and self.store is not None:
            said += f"\nIts record up to there is kept: {report_command(run.id, self.subject.folder)}"
        return said

    def _check_unchanged(self) -> None:
        if self.sources.changed():
            raise TrialError(
                f"{self.subject.label} was changed while its trials were running, so they are not of one and the same "
                "subject. Start again: trials of the changed subject are kept apart."
            )
        if changed := self.engine.disturbed():
            raise TrialError(
                f"{', '.join(changed[:3])} changed while trials of {self.subject.label} were running, which read it, so they do not all "
                "speak of the same. Start again: trials on the changed files are kept apart."
            )

    def trials(
        self, recipes: Iterable[str], seeds: Sequence[int], stage: str = "", varies: str = ""
    ) -> dict[str, list[Trial]]:
        """The trials of these recipes on these seeds, by recipe; those the budget left out are missing. The seeds move all that is random, or
        a part of it (:func:`~trimtab.training.shifted`).

        Raises:
            TrialError: if the subject was changed meanwhile.
        """
        assert self.metric is not None, "watch() settles the metric first"
        found: dict[str, list[Trial]] = {recipe: [] for recipe in recipes}
        missing: list[Job] = []
        kept: list[Trial] = []
        # seed by seed: when time runs out, all arms have the same seeds
        for seed in seeds:
            for recipe in found:
                job = self._job(recipe, seed, varies=varies)
                trial, before = self._kept.get(job.key)
                if trial is None:
                    missing.append(job)
                    continue
                trial = msgspec.structs.replace(trial, recipe=recipe)  # an edit may have been the script itself before
                found[recipe].append(trial)
                if before:
                    kept.append(trial)
        self._begin(stage, kept, len(missing))

        def done(job: Job, result: Result) -> None:
            self._check_unchanged()
            self._kept.put(
                self._job(job.name, job.seed, varies=varies).key, result.trial
            )  # what an edit reads is known by now
            found[job.name].append(result.trial)
            self._advance(result.trial)

        self._run(self._in_time(missing), done, of=self._steps, stop_at=self.stop_at)
        untreated = {trial.seed: trial for trial in found.get(BASELINE, ())}
        return {
            recipe: unmoved(sorted(trials, key=lambda trial: trial.seed), untreated) if recipe != BASELINE else trials
            for recipe, trials in found.items()
        }

    def _begin(self, stage: str, kept: Sequence[Trial], missing: int, share: float = 1.0) -> None:
        """A stage begins with what an earlier session has run."""
        if kept or missing:
            now = self.rounds(missing, share)
            most = max(0.0, self.stop_at - time.monotonic() - now)
            self.progress.stage(stage, len(kept) + missing, self.rounds(1, share), min(self.later, most))
        for trial in kept:
            self.progress.advance(trial, True)
        self.reused += len(kept)

    def _advance(self, trial: Trial, share: float = 1.0) -> None:
        """A trial has ended that was to make such a share of a run."""
        if trial.status == "ok":
            took = trial.seconds if share == 1 else max(0.0, trial.seconds - START)  # of its process
            self._slow.append(took / (share * (self.expected - START)))
        self.progress.advance(trial, False)

    def _in_time(self, jobs: Iterable[Job], share: float = 1.0) -> Iterator[Job]:
        """Those of the jobs that are expected to end before the time is over; each is asked for when a worker is free for it."""
        for job in jobs:
            if time.monotonic() + share * self.expected > self.stop_at:
                return
            yield job

    def shares(
        self, recipes: Iterable[str], seed: int, live: Live, until: int, share: float, stage: str
    ) -> dict[str, Trial]:
        """Trials that make only ``until`` reports, which is a ``share`` of the steps of a run, by recipe; those that the budget left out are
        missing. They are kept and never made again, as whole ones are.

        A trial that goes wrong on the way, by its loss, is stopped at once. Those that make all reports are whole ones, which are not
        followed.
        """
        recipes, found = list(recipes), dict[str, Trial]()
        missing: list[Job] = []
        kept: list[Trial] = []
        for recipe in recipes:
            job = self._job(recipe, seed) if share == 1 else self._job(recipe, seed, live=live, until=until)
            trial, before = self._kept.get(job.key)
            if trial is None:
                missing.append(job)
                continue
            found[recipe] = trial
            if before:
                kept.append(trial)
        self._begin(stage, kept, len(missing), share)
        paces: dict[str, float] = {}

        def report(job: Job, said: Report) -> str:
            if said.finding:  # early ones end no arm that may come back
                return ""
            paces[job.recipe] = said.step_seconds
            if said.diverged:
                return f"stopped: {said.diverged}"
            return _AT_ITS_SHARE if said.number + 1 >= until else ""

        def done(job: Job, result: Result) -> None:
            self._check_unchanged()
            trial = _at_share(result.trial, share)
            if not trial.step_seconds:
                trial = msgspec.structs.replace(trial, step_seconds=paces.get(job.recipe, 0.0))
            self._kept.put(job.key, trial)
            found[job.recipe] = trial
            self._advance(trial, share)

        jobs = self._in_time(missing, share)
        self._run(jobs, done, report, round(share * self._steps), stop_at=self.stop_at)
        if share == 1:
            untreated, _ = self._kept.get(self._job(BASELINE, seed).key)
            same = {seed: untreated} if untreated is not None else {}
            found |= {recipe: unmoved([trial], same)[0] for recipe, trial in found.items() if recipe != BASELINE}
        return {recipe: found[recipe] for recipe in recipes if recipe in found}

    def best_rate(self, run: RunRecord, seed: int) -> float:
        """The power of ten by which another rate lowers the loss of the first steps most; 1 where none does, and for short runs, of which
        these would be too large a part. ``run`` is the watched one, whose seed it is."""
        steps = steps_of(self._longest)
        if not steps:
            return 1.0
        losses = run.main.get("loss") if run.main else Series()
        seen: dict[float, Series] = {}

        def losses_at(factors: Sequence[float]) -> dict[float, Series]:
            seen.update(now := self._losses_at(factors, seed, steps))
            return now

        found = climb(losses_at, Series(steps=losses.steps[:steps], values=losses.values[:steps]))
        if found != 1 or len(seen) > 1:  # else the time was over
            self.say(remark("best_rate", steps=steps, factor=found))
        return found

    def _losses_at(self, factors: Sequence[float], seed: int, steps: int) -> dict[float, Series]:
        """The losses of the first steps at rates so many times the subject's own."""
        recipes = {str(Recipe.parse(f"lr_scale(factor={factor:g})")): factor for factor in factors}
        share, found = steps / self._longest, dict[float, Series]()
        jobs = [self._job(recipe, seed, steps=steps, probe=True) for recipe in recipes]
        missing = []
        for job in jobs:
            trial, _ = self._kept.get(job.key)
            if trial is None:
                missing.append(job)
            else:
                found[recipes[job.recipe]] = trial.curves.get("loss", Series())
        self._begin(f"rates over {steps} steps", [], len(missing), share)

        def done(job: Job, result: Result) -> None:
            self._check_unchanged()
            # whatever became of it, its losses are what it was for
            losses = result.trial.curves.get("loss", Series())
            trial = msgspec.structs.replace(
                result.trial, status="ok", error="", value=losses.last if losses else math.nan
            )
            self._kept.put(job.key, trial)
            found[recipes[job.recipe]] = losses
            self.progress.advance(trial, False)

        self._run(self._in_time(missing, share), done, of=steps, stop_at=self.stop_at)
        return found

    def explore(
        self,
        recipes: Iterable[str],
        seed: int,
        live: Live,
        report: Callable[[str, Report], str],
        ended: Callable[[Trial, bool], None],
    ) -> None:
        """Run recipes on one seed as they are proposed: the next one is taken when a worker is free for it.

        Trials are followed while they run. Those that come to their end are kept like all others, for a trial that was followed
        is the trial that was not; those that were stopped are not.

        Args:
            report: is told by recipe what a trial says of itself, and answers with a reason to stop it, or with nothing.
            ended: is told of every trial at its end, and whether an earlier session had run it.

        Raises:
            TrialError: if the subject was changed meanwhile.
        """
        assert self.metric is not None, "watch() settles the metric first"

        def jobs() -> Iterator[Job]:
            for recipe in recipes:
                job = self._job(recipe, seed, live=live)
                trial, before = self._kept.get(job.key)
                if trial is None:
                    yield job
                    continue
                self.reused += before
                ended(msgspec.structs.replace(trial, recipe=recipe), before)
                self.progress.advance(trial, before)

        def done(job: Job, result: Result) -> None:
            self._check_unchanged()
            if result.trial.status in ("ok", "no_effect"):  # who has diverged may have been stopped
                self._kept.put(self._job(job.name, seed).key, result.trial)  # what an edit reads is known by now
            ended(result.trial, False)
            self.progress.advance(result.trial, False)

        self._run(jobs(), done, lambda job, said: report(job.name, said), self._steps, stop_at=self.stop_at)

    def say(self, said: Remark | str) -> None:
        """Tell something at once."""
        for sentence in drawing().sentences((said,)):
            self.progress.say(sentence)

    @property
    def remarks(self) -> list[Remark]:
        """What is to be said of how trials were cut, and kept apart."""
        cut = [remark("first_steps", steps=self.steps, of=self.whole)] if 0 < self.steps <= self._longest else []
        return cut + self.engine.remarks

    @property
    def seconds(self) -> float:
        """How long the session has lasted."""
        return time.monotonic() - self.started

    def keep(self, write: Callable[[Store], Any]) -> None:
        """Write to the store; when it fails, say so once and go on in memory."""
        self._kept.write(write)

    @property
    def store(self) -> Store | None:
        """Where results are kept; ``None`` where that is not possible."""
        return self._kept.store


BY_DOCTOR = "stopped by the doctor"
_AT_ITS_SHARE = "this was its share"
_BY_CODE = "the script ended itself with exit code"


def _with_last_line(result: Result) -> Result:
    """A trial that ended itself by a code alone says with it what it printed last: of arguments that a script refuses, that is the reason."""
    trial, lines = result.trial, result.log.strip().splitlines()
    if not lines or not trial.error.startswith(_BY_CODE):
        return result
    return dataclasses.replace(result, trial=msgspec.structs.replace(trial, error=f"{trial.error}: {lines[-1]}"))


def _at_share(trial: Trial, share: float) -> Trial:
    """A trial that was stopped where it was to: it went well, and its metric is what it was there."""
    if trial.status != "pruned" or trial.error != _AT_ITS_SHARE:
        return trial if trial.status != "ok" else msgspec.structs.replace(trial, share=1.0)
    (curve,) = trial.curves.values()
    return msgspec.structs.replace(trial, status="ok", error="", value=curve.last, share=share)


def unmoved(trials: list[Trial], untreated: dict[int, Trial]) -> list[Trial]:
    """The trials of an arm; without effect, all of them, if every number of each is that of the untreated run of its seed.

    A bound that some of the runs reach and others do not has an effect: those that it left alone count with a difference of 0.
    """
    if not trials or not all(trial.status == "ok" and _alike(trial, untreated.get(trial.seed)) for trial in trials):
        return trials
    return [
        msgspec.structs.replace(
            trial,
            status="no_effect",
            value=math.nan,
            error="; ".join(["every number of the run is that of the untreated one", *trial.changed]),
        )
        for trial in trials
    ]


def _alike(one: Trial, other: Trial | None) -> bool:
    return other is not None and bool(one.numbers) and one.numbers == other.numbers
