"""Optuna's part of a search: which recipe to try next, whether a running one is worth its time, and what mattered.

Trials are asked for and told; they run in our own engine. The study is kept in ``tune.db``, an SQLite file beside our own, so
that a search goes on after a kill: trials that were running are given up and put back in the queue. Optuna is an optional
package and imported here only, when a search begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from trimtab.records import Attempt, Metric, Series, Trial
from trimtab.store import PATIENCE
from trimtab.trial.flags import Flags
from trimtab.trial.kept import StoreWarning
from trimtab.trial.live import Live, Report
from trimtab.trial.run import CURVE
from trimtab.trial.session import BY_DOCTOR, TrialError
from trimtab.trial.space import Space

if TYPE_CHECKING:
    import optuna

STARTUP = 10  # random recipes before the sampler has something to model
FINISHED = 5  # trials that must have come to their end before one is pruned, and values to compare with at each report
# A trial is pruned while its best report is among the worst quarter, and not within its first fifth. Regularization starts slowly
# and ends better: of 60 recipes for examples/healthy.py, run to their end, this loses 3 % of the best fifth and saves 32 % of the
# time; the usual median after a third loses 12 % and saves 34 %.
KEPT = 75.0  # percent
WARM_UP = 1 / 5
AGAIN = 25  # recipes in a row that are known already, before one is drawn blindly
TOP = 5  # attempts that importances need among the best (as the method's authors advise), and twice as many in all


class MissingOptuna(ImportError):
    """Optuna is not installed."""


def require_optuna() -> Any:
    """The module ``optuna``.

    Raises:
        MissingOptuna: if it is not installed; the message says how to.
    """
    try:
        import optuna
        import optuna.importance
    except ImportError as error:
        raise MissingOptuna(f"Searching needs Optuna ({error}). Install it: pip install 'trimtab[tune]'") from None
    return optuna


@dataclass
class _Asked:
    """A trial of the study that is running, where it lies in the space, and what it has reported."""

    trial: optuna.Trial
    at: dict[str, float | str]
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def report(self, step: int, value: float) -> None:
        self.trial.report(value, len(self.steps))
        self.steps.append(step)
        self.values.append(value)


class Search:
    """A study over a space, held by one process at a time.

    Args:
        folder: where ``tune.db`` is kept; ``None`` keeps the study in memory.
        subject: fingerprint of what is trained: it names the study, with the space, the metric and the pattern that reads it.
        reports: how many reports an untreated trial makes.
        fresh: forget an earlier study of the same name.

    Attributes:
        attempts: what was tried, in the order in which it was asked for.
        kept: how many recipes of these an earlier session had run.
        exhausted: whether the space has nothing more to give.
        impossible: recipes of the space whose techniques cannot be combined, and why.

    Raises:
        MissingOptuna: if Optuna is not installed.
        TrialError: if another process is at the same search.
    """

    def __init__(
        self,
        folder: Path | None,
        subject: str,
        space: Space | Flags,
        metric: Metric,
        live: Live,
        reports: int,
        pattern: str | None = None,
        fresh: bool = False,
    ) -> None:
        self._optuna = require_optuna()
        self.space, self.metric, self.live = space, metric, live
        self.impossible: dict[str, str] = {}
        self.kept = 0
        self.exhausted = False
        self.path = folder / "tune.db" if folder is not None else None
        judge = (metric.name, metric.goal, metric.best, metric.folds, pattern)
        self._name = f"{subject}-{hashlib.sha256(repr((space.texts, judge)).encode()).hexdigest()[:16]}"
        self._warm_up = math.ceil(WARM_UP * reports)
        self._known: dict[str, Attempt] = {}  # by recipe, as is what follows; their numbers are those of the study
        self._running: dict[str, _Asked] = {}
        self._lock = self._locked(folder)
        self._quiet = self._optuna.logging.get_verbosity()
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._storage: Any = None
        self._patience = PATIENCE
        try:
            with self._calm():
                self._storage = self._open()
                try:
                    self._study = self._load(fresh)
                except Exception as error:  # a row that is damaged, or of another version of Optuna or of trimtab
                    if self.path is None:
                        raise
                    self._storage = self._in_memory(error)
                    self._study = self._load(fresh)
                if self.path is not None:  # from here on, what cannot be written ends the search: wait for longer
                    self._patience = 30.0
                    self._storage.remove_session()
                    self._storage.engine.dispose()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self._storage, "engine"):
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._optuna.logging.set_verbosity(self._quiet)
        if self._lock is not None:
            self._lock.close()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _locked(self, folder: Path | None) -> IO[str] | None:
        """Two searches at once would take each other's running trials for the remains of a killed one."""
        if folder is None:
            return None
        path = folder / f"tune-{self._name[-16:]}.lock"
        try:
            lock = path.open("w")
        except OSError:  # the study cannot be kept here either, which is said when it is opened
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if not isinstance(error, BlockingIOError):  # a file system without locks
                return None
            raise TrialError(
                "The same search is running already, in another process. Let it end, or stop it: this one goes on from there."
            ) from None
        return lock

    def _open(self) -> Any:
        storages = self._optuna.storages
        if self.path is None:
            return storages.InMemoryStorage()
        try:
            return storages.RDBStorage(f"sqlite:///{self.path}", engine_kwargs={"creator": self._connection})
        except Exception as error:  # SQLAlchemy's, Alembic's, or Optuna's: a full disk, a damaged file, another version
            return self._in_memory(error)

    def _in_memory(self, error: Exception) -> Any:
        """The study begins anew: recipes that it asks for again are taken from the store, where they are kept too."""
        if hasattr(self._storage, "engine"):
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._known, self.impossible = {}, {}
        warnings.warn(
            f"trimtab keeps searches in {self.path} and cannot open it ({_first_line(error.__cause__ or error)}). This search goes on in "
            "memory and cannot be resumed.",
            StoreWarning,
            stacklevel=2,
        )
        self.path = None
        return self._optuna.storages.InMemoryStorage()

    def _connection(self) -> sqlite3.Connection:
        """As the store's own: it is written at every report, and need not wait for the disk each time."""
        assert self.path is not None
        connection = sqlite3.connect(self.path, timeout=self._patience, check_same_thread=False)
        connection.executescript("pragma journal_mode=wal; pragma synchronous=normal;")
        return connection

    def _load(self, fresh: bool) -> optuna.Study:
        optuna = self._optuna
        if fresh:
            with contextlib.suppress(KeyError):
                optuna.delete_study(study_name=self._name, storage=self._storage)
        study = optuna.create_study(
            study_name=self._name,
            storage=self._storage,
            direction="maximize" if self.metric.goal == "max" else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.PercentilePruner(KEPT, FINISHED, self._warm_up, n_min_trials=FINISHED),
        )
        trials = study.get_trials(deepcopy=False)
        # Seeded by what is there: with the first seed again, a search that goes on would draw its first recipes again.
        self._blind = optuna.samplers.RandomSampler(seed=len(trials))
        self._sampler = optuna.samplers.TPESampler(
            seed=len(trials), n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True
        )
        if not trials:
            study.set_user_attr("search", list(self.space.texts))
            study.set_user_attr("metric", self.metric.name)
            if (empty := self.space.untreated) is not None:
                study.enqueue_trial(empty)
        for trial in trials:
            self._take_up(study, trial)
        self.kept = sum(bool(recipe) for recipe in self._known)  # the untreated run is counted where it is watched
        return study

    def _take_up(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """A trial of an earlier session: known, also if it failed, or cut off with its process and put back in the queue."""
        states, about = self._optuna.trial.TrialState, trial.user_attrs
        if trial.state == states.RUNNING:
            study.tell(trial.number, state=states.FAIL)
            if "recipe" in about:
                study.enqueue_trial(trial.params)
        elif trial.state.is_finished() and "impossible" in about:
            self.impossible[about["recipe"]] = about["impossible"]
        elif trial.state.is_finished() and "status" in about:
            reports = trial.intermediate_values
            self._known[about["recipe"]] = Attempt(
                number=trial.number,
                recipe=about["recipe"],
                status=about["status"],
                value=trial.value if trial.state == states.COMPLETE and trial.value is not None else math.nan,
                seconds=about["seconds"],
                error=about["error"],
                at=self.space.suggest(trial).at,
                reports=Series(steps=tuple(about["steps"]), values=tuple(reports[i] for i in sorted(reports))),
            )

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(msgspec.structs.replace(attempt, number=number) for number, attempt in enumerate(self._listed()))

    def _listed(self) -> list[Attempt]:
        return sorted(self._known.values(), key=lambda attempt: attempt.number)

    # -- asking and telling ------------------------------------------------------------------------------------------

    def recipes(self, most: int) -> Iterator[str]:
        """Recipes to try, until ``most`` are known or the space holds no other."""
        while len(self._known) + len(self._running) < most:
            recipe = self._ask()
            if recipe is None:
                return
            yield recipe

    def _ask(self) -> str | None:
        """A recipe that is neither known nor running; ``None`` if there seems to be none left."""
        states = self._optuna.trial.TrialState
        for attempt in range(4 * AGAIN):
            if len(self._known) + len(self._running) + len(self.impossible) >= self.space.size:
                break
            with self._calm():
                self._study.sampler = self._sampler if attempt < AGAIN else self._blind
                trial = self._study.ask()
                suggestion = self.space.suggest(trial)
                recipe = suggestion.recipe
                if recipe in self._running:
                    self._study.tell(trial, state=states.FAIL)  # nothing is known yet that could be told
                elif recipe in self._known:
                    self._tell(trial, self._known[recipe])
                else:
                    trial.set_user_attr("recipe", recipe)
                    if not suggestion.trouble:
                        self._running[recipe] = _Asked(trial, suggestion.at)
                        return recipe
                    trial.set_user_attr("impossible", suggestion.trouble)
                    self.impossible[recipe] = suggestion.trouble
                    self._study.tell(trial, state=states.PRUNED)
        self.exhausted = True
        return None

    def report(self, recipe: str, said: Report) -> str:
        """Take in what a running trial says of itself; the answer is why it should stop, or nothing."""
        if said.diverged:
            return f"stopped: {said.diverged}"
        if said.finding:
            return f"{BY_DOCTOR}: {said.finding}"
        asked = self._running[recipe]
        with self._calm():
            asked.report(said.step, said.value)
            if not asked.trial.should_prune():
                return ""
        return (
            f"pruned at step {said.step}: its best {self.metric.name} so far is worse than three quarters of the finished trials had at "
            f"that point (last {said.value:.4g})"
        )

    def ended(self, trial: Trial, before: bool) -> None:
        """Take in the end of a trial; ``before``: an earlier session has run it."""
        asked = self._running.pop(trial.recipe)
        with self._calm():
            whole = trial.curves.get(self.metric.name, Series())
            if not asked.steps and len(whole) < CURVE:  # it was not followed: it reports now what it would have
                told = self.live.reports(whole, self.metric)
                for step, value in zip(told.steps, told.values, strict=True):
                    asked.report(step, value)
            attempt = Attempt(
                number=asked.trial.number,
                recipe=trial.recipe,
                status=trial.status,
                value=trial.value,
                seconds=trial.seconds,
                error=trial.error,
                at=asked.at,
                reports=Series(steps=tuple(asked.steps), values=tuple(asked.values)),
            )
            for name in ("status", "seconds", "error"):
                asked.trial.set_user_attr(name, getattr(attempt, name))
            asked.trial.set_user_attr("steps", asked.steps)
            self._tell(asked.trial, attempt)
        self._known[trial.recipe] = attempt
        self.kept += before

    def _tell(self, trial: optuna.Trial, attempt: Attempt) -> None:
        """Every end but a number counts as pruned: the sampler keeps away from it."""
        if attempt.status == "ok":
            self._study.tell(trial, attempt.value)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)

    @contextlib.contextmanager
    def _calm(self) -> Iterator[None]:
        """Optuna's warnings are not the user's; a store that fails ends the search, which can go on from there."""
        failed = self._optuna.exceptions.StorageInternalError
        try:
            with warnings.catch_warnings():
                for module in ("optuna", "numpy", "sqlalchemy", "alembic"):
                    warnings.filterwarnings("ignore", module=module)
                warnings.filterwarnings("ignore", category=self._optuna.exceptions.ExperimentalWarning)
                yield
        except failed as error:
            raise TrialError(
                f"trimtab cannot write to {self.path} any more ({_first_line(error.__cause__ or error)}). What is finished is kept: "
                "make room, and start again."
            ) from error

    # -- what mattered -----------------------------------------------------------------------------------------------

    def importances(self) -> tuple[dict[str, float], float]:
        """Each axis' share of what tells the best attempts from the rest, and how large a part of them counts as the best.

        Attempts without a number count as not among the best. Empty with fewer than ten attempts, when all are equal, or with one axis.

        Source: Watanabe et al. 2023, PED-ANOVA; for axes of some recipes only, its conditional form (Optuna 5).
        """
        attempts = self._listed()
        values = [
            attempt.value if self.metric.goal == "min" else -attempt.value
            for attempt in attempts
            if attempt.status == "ok"
        ]
        if len(self.space.axes) < 2 or len(attempts) < 2 * TOP or len(values) < TOP or min(values) == max(values):
            return {}, 0.0
        quantile = max(0.1, TOP / len(attempts))
        optuna, worst = self._optuna, max(values) + 1.0
        with self._calm():
            known = self._study.get_trials(deepcopy=False)
            study = optuna.create_study(direction="minimize")
            for attempt in attempts:
                trial = known[attempt.number]
                loss = attempt.value if self.metric.goal == "min" else -attempt.value
                study.add_trial(
                    optuna.trial.create_trial(
                        params=trial.params,
                        distributions=trial.distributions,
                        value=loss if attempt.status == "ok" else worst,
                    )
                )
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
        total = sum(found.values())
        if not total > 0:
            return {}, 0.0
        shares = {axis.name: found.get(axis.name, 0.0) / total for axis in self.space.axes}
        return dict(sorted(shares.items(), key=lambda item: -item[1])), quantile


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
