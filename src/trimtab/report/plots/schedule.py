"""A closed form as a picture by itself, such as a learning rate over its steps: for a file, and in a terminal.

Nothing here was recorded: the points are computed by the part or technique that is shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trimtab.report.files import write_whole
from trimtab.report.plots.canvas import COLOURS, SERIES, axis_attributes, label, place, sheet, to_svg
from trimtab.report.plots.decimate import decimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

WIDTH, HEIGHT = 620, 320
SUFFIXES = (".svg", ".png")
_TERMINAL = ("cyan", "yellow", "green", "magenta", "blue", "red")
_DOTS = np.array(
    [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]]
)  # of a braille character, 4 rows and 2 columns


@dataclass(frozen=True)
class Line:
    """One curve: its name and its points, thinned."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class ScheduleData:
    """Curves that share their axes, with the titles of both."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """Ends of both axes; that of y holds 0."""
        x, y = (np.concatenate([getattr(line, axis) for line in self.lines]) for axis in "xy")
        low, high = min(0.0, float(y.min())), max(0.0, float(y.max()))
        return float(x.min()), max(float(x.max()), float(x.min()) + 1), low, high if high > low else low + 1


def schedule_data(
    title: str, x: str, y: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> ScheduleData:
    """Curves by their names, thinned for drawing."""
    thin = {name: decimate(np.asarray(xs), np.asarray(ys), 2000) for name, (xs, ys) in curves.items()}
    return ScheduleData(title, x, y, tuple(Line(name, one.steps, one.values) for name, one in thin.items()))


def write_schedule(data: ScheduleData, path: Path) -> None:
    """Write the picture to a file, in the form of its suffix: SVG (light and dark) or PNG (light)."""
    if path.suffix.lower() == ".svg":
        write_whole(path, draw_schedule(data).encode())
        return
    colours = _page_colours()[0]
    drawn_with = {name: colours[name] for name in COLOURS}
    with sheet(WIDTH, HEIGHT, drawn_with) as figure:
        _draw(figure, data, drawn_with)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=144, facecolor=colours["card"], metadata={"Software": None})
    write_whole(path, picture.getvalue())


def draw_schedule(data: ScheduleData) -> str:
    """The SVG, which stands by itself: its colours are those of the page, light or dark as the reader has it."""
    with sheet(WIDTH, HEIGHT) as figure:
        attributes = _draw(figure, data, COLOURS)
        svg = to_svg(figure, f"{label(data.title, 80)}: {data.y} over {data.x}", "schedule", {}, attributes)
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in colours.items() if name in COLOURS)
        for colours in _page_colours()
    )
    style = (
        f'<style>svg[data-kind="schedule"]{{{light}background:var(--card);font-family:system-ui,sans-serif}}'
        f'@media (prefers-color-scheme:dark){{svg[data-kind="schedule"]{{{dark}}}}}</style>'
    )
    head, body = svg.split(">", 1)
    return f'{head} width="{WIDTH}" height="{HEIGHT}">{style}{body}\n'


def _draw(figure: Figure, data: ScheduleData, colours: Mapping[str, str]) -> dict[str, str]:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes = place(figure, 64, 62, 22, 48)
    axes.grid(axis="y")
    for number, line in enumerate(data.lines):
        colour = colours[SERIES[number % len(SERIES)]]
        axes.plot(line.x, line.y, color=colour, linewidth=2, solid_joinstyle="round", label=label(line.name, 60),
                  clip_on=False, gid=f"tt-series--series-{number}")  # fmt: skip
    left, right, low, high = data.limits
    axes.set_xlim(left, right)
    axes.set_ylim(low, high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.set_xlabel(data.x)
    axes.set_ylabel(data.y)
    figure.text(0.02, 0.95, data.title, color=colours["ink"], size=13, weight="bold", va="top")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(data.lines),
        frameon=False,
        labelcolor=colours["muted"],
        borderaxespad=0.2,
        handlelength=1.4,
    )
    return axis_attributes(axes)


def _page_colours() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of the report's style sheet, light and dark."""
    css = (files("trimtab.report") / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    found = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in (light, dark)]
    return found[0], found[1]


def schedule_text(data: ScheduleData, width: int = 72, height: int = 14) -> Text:
    """The picture in braille dots for a terminal; where there are several curves, each has its number on it.

    >>> line = schedule_data("line", "step", "factor", {"down": ([0.0, 10.0], [1.0, 0.0])})
    >>> print(schedule_text(line, 24, 4))
    factor
       1 ┤⠉⠒⠤⣀
         │    ⠉⠒⠤⣀
         │        ⠉⠒⠤⣀
       0 ┤            ⠉⠒⠤⣀
         └────────────────
          0             10
                      step
    """
    from rich.text import Text

    left, right, low, high = data.limits
    ends = [f"{value:.4g}" for value in (high, low)]
    margin = max(4, *map(len, ends))
    columns = max(8, width - margin - 4)
    rows = np.array([_rows(line, columns, height, data.limits) for line in data.lines])  # in dots, from the top
    cells: list[list[tuple[int, str]]] = [[(0, "")] * columns for _ in range(height)]
    for number, line in enumerate(rows):
        style = _TERMINAL[number % len(_TERMINAL)]
        for column, (before, row) in enumerate(zip([line[0], *line], line, strict=False)):
            toward = 1 if row > before else -1
            for dot in range(before + toward, row + toward, toward) if row != before else [row]:
                _set(cells, dot, column, style)
    shown = [[chr(0x2800 + dots) if dots else " " for dots, _ in line] for line in cells]
    for number, place_ in enumerate(_numbered(rows) if len(rows) > 1 else []):
        shown[rows[number][place_] // 4][place_ // 2] = str(number + 1)
    text = Text(f"{data.y}\n")
    for row, (line, characters) in enumerate(zip(cells, shown, strict=True)):
        end = {0: ends[0], height - 1: ends[1]}.get(row, "")
        text.append(f"{end:>{margin}} {'┤' if end else '│'}", style="dim")
        for (_, style), character in zip(line, characters, strict=True):
            text.append(character, style=style)
        text.rstrip()
        text.append("\n")
    text.append(f"{'':{margin}} └{'─' * columns}\n", style="dim")
    first, last = f"{left:,.6g}", f"{right:,.6g}"
    text.append(f"{'':{margin}}  {first}{last:>{columns - len(first)}}\n", style="dim")
    text.append(f"{'':{margin}}  {data.x:>{columns}}")
    if len(data.lines) > 1:
        for number, one in enumerate(data.lines):
            text.append(f"\n{'':{margin}}  {number + 1} ")
            text.append(one.name, style=_TERMINAL[number % len(_TERMINAL)])
    return text


def _rows(line: Line, columns: int, height: int, limits: tuple[float, float, float, float]) -> np.ndarray:
    """The row of dots, from the top, of the curve at every column of dots."""
    left, right, low, high = limits
    values = np.interp(np.linspace(left, right, 2 * columns), line.x, line.y)
    return np.clip(np.rint((high - values) / (high - low) * (4 * height - 1)), 0, 4 * height - 1).astype(int)


def _numbered(rows: np.ndarray) -> list[int]:
    """For every curve the column at which it is farthest from all others."""
    found = []
    for number, line in enumerate(rows):
        gap = np.min([np.abs(line - other) for place_, other in enumerate(rows) if place_ != number], axis=0)
        found.append(int(gap.argmax()))
    return found


def _set(cells: list[list[tuple[int, str]]], row: int, column: int, style: str) -> None:
    dots, _ = cells[row // 4][column // 2]
    cells[row // 4][column // 2] = dots | int(_DOTS[row % 4, column % 2]), style
