"""How an outcome is told: what every kind says of itself, on the terminal, on the page, as JSON, and by the exit code.

A kind of outcome is a record (derived from :class:`trimtab.records.Outcome`) and one class derived from :class:`Telling`, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from trimtab.records import Arm, Comparison, Finding, Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trimtab.records import RunRecord
    from trimtab.report.figures import Picture
    from trimtab.report.tables import Table

O = TypeVar("O", bound=Outcome)  # noqa: E741 - as in Ordinary


@dataclass(frozen=True)
class Part:
    """A section of the page: a template, with what it is given besides the helpers that every template has.

    Attributes:
        key: of its anchor.
        title: in the line of links at the top; without one there is no link.
        template: jinja text; it can call ``figure(picture)`` and ``code(text)``.
        values: what it is given.
        pictures: how many it shows are limited by the size of the page; it finds those that have room as ``pictures``.
        last: whether it stands after the tables of trials.
        of_run: gives more pictures, which the watched run is needed for.
    """

    key: str
    title: str
    template: str
    values: dict[str, Any]
    pictures: tuple[Picture, ...] = ()
    last: bool = False
    of_run: Callable[[RunRecord], Iterable[Picture]] = lambda run: ()


class Telling(Generic[O]):
    """How outcomes of one kind are told. Derive, and set ``record`` to the class of the record.

    Everything but :meth:`sentence` has an answer for kinds that have nothing to say there.
    """

    record: ClassVar[type[Outcome]]

    def sentence(self, outcome: O, findings: Sequence[Finding]) -> str:
        """What came of it, in one sentence."""
        raise NotImplementedError

    def helped(self, outcome: O) -> bool | None:
        """Whether something is proven to help (or lets the subject train at all); ``None`` where nothing was tried that could.

        The exit code and the tone of page and terminal follow it.
        """
        return None

    def exit_code(self, outcome: O, by_verdict: bool = False) -> int:
        """What a command that was to find help ends with; or, of kinds that have a verdict, one that says which."""
        return 0 if self.helped(outcome) is not False else 3

    def headline(self, outcome: O) -> tuple[Comparison, Arm] | None:
        """The comparison and the arm that the sentence speaks of, if it speaks of one."""
        return None

    def view(self, outcome: O) -> Iterator[RenderableType]:
        """What the terminal shows of it, below the sentence."""
        return iter(())

    def tables(self, outcome: O) -> Iterator[Table]:
        """The tables of trials on the page."""
        return iter(())

    def decided(self, outcome: O) -> Comparison | None:
        """The comparison that decided: what is shown of it later, when something else was tried."""
        return None

    def parts(self, outcome: O) -> Iterator[Part]:
        """Sections of the page that are its own."""
        return iter(())

    def kept(self, outcome: O) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Recipes that are proven, each with the lines that keep it."""
        return iter(())

    def facts(self, outcome: O) -> Iterator[tuple[str, str]]:
        """Rows of the page's table of facts."""
        return iter(())

    def as_json(self, outcome: O) -> Any:
        """What ``--json`` has of it, under the name of its kind."""
        return outcome
