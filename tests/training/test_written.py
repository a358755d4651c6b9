"""Numbers in the files that a script writes."""

from __future__ import annotations

import json

from trimtab.watching.files import numbers_in


def test_a_list_of_all_kinds_of_things_is_no_series(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text(
        json.dumps({"err": ["<stderr>", "utf-8", True, 2], "val_loss": [0.5, 0.25], "runs": [{"acc": 1}, {"acc": 0}]})
    )
    assert list(numbers_in(file)) == [("val_loss", 0.5), ("val_loss", 0.25), ("runs/acc", 1.0), ("runs/acc", 0.0)]
