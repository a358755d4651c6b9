"""A closed form by itself: as a picture that stands alone, and in the dots of a terminal."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from trimtab.report.plots.canvas import COLOURS
from trimtab.report.plots.schedule import draw_schedule, schedule_data, schedule_text, write_schedule

STEPS = [float(step) for step in range(1001)]
FALLS = {
    "line": (STEPS, [1 - step / 1000 for step in STEPS]),
    "square": (STEPS, [(1 - step / 1000) ** 2 for step in STEPS]),
}
DOTS = {0x01: (0, 0), 0x02: (1, 0), 0x04: (2, 0), 0x08: (0, 1), 0x10: (1, 1), 0x20: (2, 1), 0x40: (3, 0), 0x80: (3, 1)}


def data(curves=FALLS, title="falls"):
    return schedule_data(title, "step", "factor", curves)


def dots(text: str) -> set[tuple[int, int]]:
    """Row (from the top) and column of every dot."""
    rows = [line.split("┤" if "┤" in line else "│")[1] for line in text.splitlines() if "┤" in line or "│" in line]
    return {
        (4 * r + row, 2 * c + column)
        for r, line in enumerate(rows)
        for c, char in enumerate(line)
        for bit, (row, column) in DOTS.items()
        if 0x2800 <= ord(char) and (ord(char) - 0x2800) & bit
    }


@pytest.mark.parametrize(
    "shape", [lambda x: 1 - x, lambda x: (1 - x) ** 3, lambda x: float(x > 0.4), lambda x: 0.5 + 0.5 * np.sin(9 * x)]
)
def test_dots_stand_where_the_curve_is(shape):
    width, height = 60, 10
    values = [float(shape(step / 1000)) for step in STEPS]
    found = dots(schedule_text(data({"one": (STEPS, values)}), width + 8, height).plain)
    for column in range(2 * width):
        row = (max(values) - np.interp(column / (2 * width - 1) * 1000, STEPS, values)) / max(values) * (4 * height - 1)
        assert any(
            abs(r - row) <= 0.51 for r, c in found if c == column
        )  # half a dot, and the clipping at the end of a jump
    for column in range(1, 2 * width):  # no gaps: a dot beside or within one row of the column before
        here, before = ([r for r, c in found if c == k] for k in (column, column - 1))
        assert min(abs(a - b) for a in here for b in before) <= 1
        assert sorted(here) == list(range(min(here), max(here) + 1))


def test_several_curves_carry_their_numbers():
    text = schedule_text(data(), 60, 12)
    plot, legend = text.plain.split("step\n")
    assert re.findall(r"\d (\w+)", legend) == ["line", "square"]
    body = "".join(
        line.split("┤" if "┤" in line else "│")[1] for line in plot.splitlines() if "┤" in line or "│" in line
    )
    assert body.count("1") == body.count("2") == 1
    assert {span.style for span in text.spans} >= {"cyan", "yellow"}


@pytest.mark.parametrize(
    ("values", "ends"),
    [([2.0, 2.0], ["2", "0"]), ([0.0, 0.0], ["1", "0"]), ([-3.0, -1.0], ["0", "-3"]), ([5.0], ["5", "0"])],
)
def test_odd_curves_are_drawn(values, ends, tmp_path):
    curve = data({"odd": ([float(k) for k in range(len(values))], values)})
    lines = schedule_text(curve, 40, 5).plain.splitlines()
    assert [line.split()[0] for line in lines if "┤" in line] == ends
    assert xml.fromstring(draw_schedule(curve)) is not None
    write_schedule(curve, tmp_path / "odd.png")


def test_the_picture_stands_by_itself_in_light_and_dark():
    svg = draw_schedule(data(title="a <b> & c"))
    root = xml.fromstring(svg)
    assert root.get("width") == "620" and "a <b> & c" in root.attrib["aria-label"]
    light, dark = svg.split("<style>")[1].split("</style>")[0].split("@media (prefers-color-scheme:dark)")
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    assert {"c0", "c1", "ink", "muted", "grid", "card"} <= used <= set(COLOURS)
    for name in used:
        assert re.search(rf"--{name}:#[0-9a-f]+;", light) and re.search(rf"--{name}:#[0-9a-f]+;", dark)
    assert not re.search("#0101|#0102", svg)
    text = "".join(root.itertext())
    for words in ("step", "factor", "line", "square", "1,000"):
        assert words in text


def test_lines_of_the_picture_are_not_thinned_before_two_thousand_points():
    assert [len(line.x) for line in data().lines] == [1001, 1001]
    many = np.linspace(0, 1, 9000)
    assert len(data({"many": (many, many)}).lines[0].x) <= 2002


def test_a_file_of_pixels(tmp_path):
    from matplotlib.image import imread

    write_schedule(data(), tmp_path / "new" / "falls.PNG")
    pixels = imread(tmp_path / "new" / "falls.PNG")
    assert pixels.shape[:2] == (640, 1240) and (pixels[0, 0, :3] == 1).all()
    colours = {
        tuple(colour) for colour in np.unique(np.round(255 * pixels[..., :3]).reshape(-1, 3), axis=0).astype(int)
    }
    assert {(0x1F, 0x6F, 0xEB), (0xE0, 0x66, 0x2B)} <= colours  # of the page: blue and orange
