"""What outcomes say: codes with values in the records, a sentence for each here, and texts of older versions as they were."""

import ast
import inspect
from pathlib import Path

import msgspec

import trimtab
from trimtab.records import Arm, Comparison, Remark, Treatment, remark, to_bytes
from trimtab.report import sample
from trimtab.report.sentences import English, sentences

SOURCE = Path(trimtab.__file__).parent


def remarks_made():
    """The calls of ``remark(code, ...)`` in the package: the code and the names of the values."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "remark":
                code = node.args[0]
                whole = all(keyword.arg for keyword in node.keywords)
                yield (
                    code.value if isinstance(code, ast.Constant) else None,
                    [k.arg for k in node.keywords if k.arg],
                    whole,
                )


def test_every_code_has_a_sentence_that_takes_its_values():
    made = list(remarks_made())
    assert {code for code, *_ in made if code} | {"reason", "idle_part"} == {
        name for name in vars(English) if name[0] != "_"
    }
    for code, names, whole in made:
        if code:
            signature = inspect.signature(getattr(English, code))
            bind = signature.bind if whole else signature.bind_partial
            bind(**dict.fromkeys(names, 0))  # raises where a name is not known, or one is missing


def test_a_code_of_a_later_version_shows_its_values():
    (said,) = sentences((Remark(code="power_reached", values={"power": 0.8, "seeds": 7}),))
    assert said == "power reached: power 0.8, seeds 7."
    assert sentences((remark("one_pair", seeds=3),)) == ("one pair: seeds 3.",)
    assert sentences(("a text",)) == ("a text",)


def test_texts_that_older_versions_stored_are_told_as_they_were():
    comparison = sample.comparison()
    old = msgspec.to_builtins(comparison) | {"words": ["Two pairs.", "One data set."]}
    old["arms"] = [old["arms"][0] | {"note": "1 seed ended with NaN."}, old["arms"][0] | {"note": ""}]
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Comparison)
    assert read.words == ("Two pairs.", "One data set.")
    assert [arm.note for arm in read.arms] == ["1 seed ended with NaN.", ""]


def test_remarks_are_stored_as_codes_with_values():
    said = (remark("not_reached", seconds=8.0, recipes=["adam", "ema"]), remark("none_better", of="remedy"))
    treatment = Treatment(subject="train.py", findings=(), remarks=said)
    stored = to_bytes(treatment)
    assert b"did not reach" not in stored and b"not_reached" in stored
    read = msgspec.msgpack.decode(stored, type=Treatment)
    assert read == treatment and read.words[0] == "The budget of 8 s did not reach for: adam; ema."
    arm = msgspec.structs.replace(sample.comparison().arms[0], remarks=(remark("one_pair"), remark("reason", said="x")))
    assert msgspec.msgpack.decode(to_bytes(arm), type=Arm).note.endswith("no interval and no p. Reason: x.")
