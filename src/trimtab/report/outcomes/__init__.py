"""The outcomes that there are, one file each: how it is told on the terminal, on the page and as JSON."""

from trimtab.members import derived, of_others
from trimtab.records import Outcome
from trimtab.report.outcomes.comparison import ComparisonTelling
from trimtab.report.outcomes.noise import NoiseTelling
from trimtab.report.outcomes.treatment import TreatmentTelling
from trimtab.report.outcomes.tuning import TuningTelling
from trimtab.report.telling import Telling

__all__ = ["ComparisonTelling", "NoiseTelling", "TreatmentTelling", "TuningTelling", "telling_of"]


def telling_of(outcome: Outcome) -> Telling:
    """How an outcome is told: by the class derived from :class:`~trimtab.report.telling.Telling` that has its kind of record, from wherever."""
    of_others("outcomes")
    for kind in derived(Telling):  # ours first
        if getattr(kind, "record", None) is type(outcome):
            return kind()
    raise TypeError(
        f"Nobody knows how to tell a {type(outcome).__name__}. Derive a class from trimtab.report.telling.Telling whose record it is."
    )
