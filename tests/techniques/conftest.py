"""What tests of techniques share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trimtab.training.stage import stage


@pytest.fixture
def trained_values() -> Iterator[None]:
    """Losses have the values that they are trained on, and not those that the script would have without techniques."""
    with stage.taps.true_values():
        yield
