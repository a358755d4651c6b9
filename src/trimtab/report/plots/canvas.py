"""From a matplotlib figure to an SVG that belongs to the page: its colours, its font, no ids of its own.

matplotlib draws with the placeholder colours below; in the SVG they become CSS variables, so that one picture serves the light
and the dark page. One unit of the SVG is one pixel of the figure. Artists given a ``gid`` carry it as ``class``.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Each is a colour that nothing else draws with; the page's style sheet says what it looks like.
COLOURS = {
    "ink": "#010101", "muted": "#010102", "grid": "#010103", "bad": "#010104", "good": "#010105", "card": "#010106",
    "base": "#010107", **{f"c{i}": f"#01020{i}" for i in range(8)},
}  # fmt: skip
SERIES = tuple(f"c{i}" for i in range(8))
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@contextmanager
def sheet(width: float, height: float, colours: Mapping[str, str] = COLOURS) -> Iterator[Figure]:
    """An empty figure of ``width`` x ``height`` pixels; draw and call ``to_svg`` inside the ``with``.

    For other formats than SVG, ``colours`` are real ones.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "trimtab", "text.parse_math": False, "path.simplify": False, "path.snap": False,
        "font.family": "DejaVu Sans", "font.size": 11, "axes.edgecolor": colours["grid"], "axes.linewidth": 1,
        "axes.labelcolor": colours["muted"], "text.color": colours["ink"], "xtick.color": colours["muted"],
        "ytick.color": colours["muted"], "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0,
        "ytick.minor.size": 0, "grid.color": colours["grid"], "grid.linewidth": 1, "axes.axisbelow": True,
    }  # fmt: skip
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a script that was watched may have set its own
        matplotlib.rcParams.update(style)
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's fonts draw the text, not matplotlib's
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        yield figure


def place(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes with these margins in pixels, without frame but with a base line."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return axes


def axis_attributes(axes: Axes) -> dict[str, str]:
    """Where the axes lie: data range (``data-x0`` ...) and the same range in units of the SVG (``data-px0`` ...)."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    box = axes.get_window_extent()
    height = axes.figure.bbox.height
    numbers = {
        "x0": x0, "x1": x1, "y0": y0, "y1": y1,
        "px0": box.x0, "px1": box.x1, "py0": height - box.y0, "py1": height - box.y1,
    }  # fmt: skip
    return {f"data-{key}": repr(float(value)) for key, value in numbers.items()} | {"data-yscale": axes.get_yscale()}


def to_svg(figure: Figure, title: str, kind: str, hover: object, attributes: Mapping[str, str]) -> str:
    """The figure as one ``<svg>`` element. ``hover`` is what the page's script shows under the pointer, kept as JSON."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    xml.register_namespace("", _SVG)
    root = xml.fromstring(buffer.getvalue())
    _clean(root)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {
        "class": "plot",
        "role": "img",
        "aria-label": title,
        "tabindex": "0",
        "data-kind": kind,
        **attributes,
    }
    root.attrib["data-hover"] = json.dumps(jsonable(hover), separators=(",", ":"), allow_nan=False)
    text = xml.tostring(root, encoding="unicode")
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _clean(root: xml.Element) -> None:
    """Drop matplotlib's metadata, style sheet and unused ids, which would collide between the pictures of a page."""
    used = set(
        re.findall(r"#([\w.-]+)", " ".join(value for element in root.iter() for value in element.attrib.values()))
    )
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    for element in root.iter():
        name = element.attrib.get("id", "")
        if name and name not in used:
            del element.attrib["id"]
            if name.startswith("tt-"):
                element.attrib["class"] = name.removeprefix("tt-").replace("--", " ")
        if "d" in element.attrib:
            short = re.sub(
                r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), element.attrib["d"]
            )
            element.attrib["d"] = " ".join(short.split())
        if f"{{{_XLINK}}}href" in element.attrib:
            element.attrib["href"] = element.attrib.pop(f"{{{_XLINK}}}href")
        if "style" in element.attrib:
            element.attrib["style"] = re.sub(
                r"font: (?:\w+ )*?([\d.]+px)[^;]*", r"font-size: \1", element.attrib["style"]
            )


def digits(axis: Axis) -> int:
    """How many digits tell the ticks of an axis apart; four, unless they lie close together."""
    ticks = sorted({float(tick) for tick in axis.get_majorticklocs()})
    if len(ticks) < 2 or axis.get_scale() != "linear":
        return 4
    ratio = max(map(abs, ticks)) / (ticks[1] - ticks[0])
    return min(max(math.ceil(math.log10(ratio)) + 1, 4), 12) if math.isfinite(ratio) and ratio > 0 else 4


def jsonable(value: Any) -> Any:
    """The value with numbers short enough to read: six digits, NaN as ``None``, infinities as text."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        return [jsonable(item) for item in (value if isinstance(value, (list, tuple)) else value.tolist())]
    if isinstance(value, float):
        if math.isfinite(value):
            return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def label(name: str, length: int = 28) -> str:
    """A name fit for a picture: no control characters, shortened in the middle.

    >>> label("encoder.layers.11.attention.out_proj.weight")
    'encoder.layer…ut_proj.weight'
    """
    name = "".join(char if char.isprintable() else " " for char in name)
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[len(name) - (length - 1 - half) :]}"
