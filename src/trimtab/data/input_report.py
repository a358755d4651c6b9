"""What was met in inputs while their statistics were learned."""

from __future__ import annotations

from dataclasses import dataclass

FAULTS = ("missing", "infinite", "constant")
SHOWN = 20  # lines of a table


class InputWarning(UserWarning):
    """Inputs hold values, or features, that preprocessing can do little with."""


@dataclass(frozen=True)
class Trouble:
    """One feature with something wrong. ``kind`` is one of FAULTS, ``count`` how many of its entries are so."""

    feature: int
    kind: str
    count: int


@dataclass(frozen=True)
class InputReport:
    """What was met while fitting; printed, it is a table.

    Attributes:
        part: what was fitted, by the name of its class.
        features: how many features there are.
        rows: samples and positions seen.
        troubles: what is wrong, by feature.
        incomplete: rows left out because an entry was missing.
        dropped: directions without variance of their own.
        condition: the condition number of the input before and after, where it is known.
    """

    part: str
    features: int
    rows: int
    troubles: tuple[Trouble, ...] = ()
    incomplete: int = 0
    dropped: int = 0
    condition: tuple[float, float] | None = None

    def __str__(self) -> str:
        lines = [f"{self.part} of {self.features} features, fitted on {self.rows} rows"]
        if self.troubles:
            lines.append("feature  trouble   count")
            lines += [f"{one.feature:7d}  {one.kind:8s} {one.count:6d}" for one in self.troubles[:SHOWN]]
            if more := len(self.troubles) - SHOWN:
                lines += [f"and {more} more"] if more > 0 else []
        elif not self.remarks:
            lines[0] += ": no trouble"
        return "\n".join([*lines, *self.remarks])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of all features together."""
        said = []
        if self.incomplete:
            said.append(f"{self.incomplete} incomplete rows were left out")
        if self.dropped:
            said.append(
                f"{self.dropped} of {self.features} directions dropped: they are constant, or follow from the others"
            )
        if self.condition is not None:
            said.append("condition number of the input {:.3g} -> {:.3g}".format(*self.condition))
        return tuple(said)

    def in_words(self, kinds: tuple[str, ...] = FAULTS) -> str:
        """The troubles of these kinds in one phrase; empty without any."""
        parts = []
        for kind in kinds:
            found = [one for one in self.troubles if one.kind == kind]
            if found:
                listed = ", ".join(str(one.feature) for one in found[:4])
                more = f" and {len(found) - 4} more" if len(found) > 4 else ""
                where = f"feature{'s' if len(found) > 1 else ''} {listed}{more}"
                total = sum(one.count for one in found)
                parts.append(f"constant {where}" if kind == "constant" else f"{total} {kind} values in {where}")
        return "; ".join(parts)
