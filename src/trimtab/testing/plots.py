"""What every plot holds: it draws what there is, says what there is not, and fails on no record."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterable

from trimtab.records import TrainingRecord
from trimtab.report.figures import Picture
from trimtab.testing.rules import odd_trainings

Plot = Callable[[TrainingRecord, str], Iterable[Picture]]


def check_plot(plot: Plot, drawn: TrainingRecord | None = None) -> None:
    """Run the suite that all plots pass.

    Args:
        plot: a function of the record of a training and a key, which gives pictures; their keys begin with that.
        drawn: a training of which it must draw something.

    Raises:
        AssertionError: with what must hold.
    """
    name = getattr(plot, "__name__", repr(plot))
    for training in (*odd_trainings(), *filter(None, [drawn])):
        pictures = list(plot(training, "key"))
        keys = [picture.key for picture in pictures]
        assert len(set(keys)) == len(keys), f"{name}: two pictures have one key: {keys}"
        for picture in pictures:
            check_picture(name, picture)
        if training is drawn:
            assert any(picture.svg for picture in pictures), f"{name}: nothing is drawn of {training.name!r}"


def check_picture(name: str, picture: Picture) -> None:
    """A picture has a title and is an SVG, or a caption that says why it is none; nothing in it is asked for from elsewhere."""
    assert picture.key.startswith("key"), f"{name}: the key {picture.key!r} must begin with the one that is given"
    assert picture.title, f"{name}: a picture needs a title"
    if not picture.svg:
        assert picture.caption, f"{name}: what cannot be drawn must say why in its caption"
        return
    root = xml.fromstring(picture.svg)
    assert root.tag.endswith("svg"), f"{name}: {root.tag} is no SVG"
    for element in root.iter():
        for key, value in element.attrib.items():
            outside = key.endswith("href") and not value.startswith("#")
            assert not outside, f"{name}: the page must need no other file, and {element.tag} asks for {value[:60]}"
