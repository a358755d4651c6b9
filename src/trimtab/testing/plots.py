"""What every plot holds: it draws what there is, says what there is not, and fails on no record."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterable

from trimtab.records import TrainingRecord
from trimtab.report.figures import Picture
from trimtab.testing.rules import odd_trainings
from trimtab.testing.traces import blamed, described, name_of

Plot = Callable[[TrainingRecord, str], Iterable[Picture]]


def check_plot(plot: Plot, drawn: TrainingRecord | None = None) -> None:
    """Run the suite that all plots pass.

    Args:
        plot: a function of the record of a training and a key, which gives pictures; their keys begin with that.
        drawn: a training of which it must draw something.

    Raises:
        AssertionError: with what must hold.
    """
    name = name_of(plot)
    assert callable(plot), f"{name}: a plot must be a function of a record and a key"
    for training in (*odd_trainings(), *filter(None, [drawn])):
        with blamed(name, f"of the record {training.name!r} it must give pictures, and"):
            pictures = _pictures(name, plot, training)
        if training is drawn:
            assert any(picture.svg for picture in pictures), f"{name}: nothing is drawn of {training.name!r}"


def _pictures(name: str, plot: Plot, training: TrainingRecord) -> list[Picture]:
    given = plot(training, "key")
    assert isinstance(given, Iterable), (
        f"{name}: of the record {training.name!r} it must yield pictures, and gives {described(given)}"
    )
    pictures = list(given)
    for picture in pictures:
        assert isinstance(picture, Picture), (
            f"{name}: of the record {training.name!r} it must yield pictures, and yields {described(picture)}"
        )
        check_picture(name, picture)
    keys = [picture.key for picture in pictures]
    assert len(set(keys)) == len(keys), f"{name}: two pictures have one key: {keys}"
    return pictures


def check_picture(name: str, picture: Picture) -> None:
    """A picture has a title and is an SVG, or a caption that says why it is none; nothing in it runs, or is asked for from elsewhere."""
    assert picture.key.startswith("key"), f"{name}: the key {picture.key!r} must begin with the one that is given"
    assert picture.title, f"{name}: a picture needs a title"
    if not picture.svg:
        assert picture.caption, f"{name}: what cannot be drawn must say why in its caption"
        return
    try:
        root = xml.fromstring(picture.svg)
    except xml.ParseError as error:
        raise AssertionError(f"{name}: the SVG of {picture.key!r} must be well-formed XML: {error}") from None
    assert _local(root.tag) == "svg", f"{name}: {root.tag} is no SVG"
    for element in root.iter():
        assert _local(element.tag).lower() != "script", f"{name}: the SVG of {picture.key!r} must have no script in it"
        for key, value in element.attrib.items():
            runs = _local(key).lower().startswith("on") or "javascript:" in value.lower()
            assert not runs, f"{name}: the SVG of {picture.key!r} must run nothing, and {key} of {element.tag} would"
            outside = key.endswith("href") and not value.startswith("#")
            assert not outside, f"{name}: the page must need no other file, and {element.tag} asks for {value[:60]}"


def _local(tag: str) -> str:
    """A name without its namespace."""
    return tag.rpartition("}")[2]
