"""A comparison: recipes against the untreated subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.records import Arm, Comparison, Finding, Verdict
from trimtab.report.effects import change
from trimtab.report.telling import Telling
from trimtab.report.words import arm_noun, count, helped

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trimtab.report.tables import Table


EXIT_CODES: dict[Verdict, int] = {"better": 0, "undecided": 3, "same": 4, "worse": 5}


class ComparisonTelling(Telling[Comparison]):
    """The best arm, then all of them in a table."""

    record = Comparison

    def sentence(self, outcome: Comparison, findings: Sequence[Finding]) -> str:
        arm = outcome.best
        if arm is None:
            return "Nothing was compared"
        if arm.helped or len(outcome.arms) == 1:
            return change(outcome, arm, "paired seed")
        return f"None of the {count(len(outcome.arms), arm_noun(outcome))} is proven to help; the best: {change(outcome, arm, 'paired seed')}"

    def helped(self, outcome: Comparison) -> bool:
        return any(arm.helped for arm in outcome.arms)

    def exit_code(self, outcome: Comparison, by_verdict: bool = False) -> int:
        return EXIT_CODES[outcome.verdict] if by_verdict else 0  # it was to compare

    def headline(self, outcome: Comparison) -> tuple[Comparison, Arm] | None:
        return (outcome, outcome.best) if outcome.best is not None else None

    def view(self, outcome: Comparison) -> Iterator[RenderableType]:
        from trimtab.report.blocks import comparison_view

        yield comparison_view(outcome)

    def tables(self, outcome: Comparison) -> Iterator[Table]:
        from trimtab.report.tables import table

        yield table("trial-0", "Comparison", outcome, self.headline(outcome))

    def decided(self, outcome: Comparison) -> Comparison:
        return outcome

    def as_json(self, outcome: Comparison) -> Any:
        return comparison_json(outcome)

    def kept(self, outcome: Comparison) -> Iterator[tuple[str, tuple[str, ...]]]:
        return ((arm.recipe, arm.lines) for arm in helped(outcome))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON has it: as stores do, with what is to be said in sentences and by codes."""
    arms = [
        msgspec.structs.asdict(arm)
        | {"standing": arm.standing, "verdict": arm.verdict, "note": arm.note, "remarks": arm.remarks}
        for arm in comparison.arms
    ]
    told = {"words": comparison.words, "remarks": comparison.remarks, "arms": arms, "verdict": comparison.verdict}
    return msgspec.structs.asdict(comparison) | told
