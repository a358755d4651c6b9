"""The ledger of decisions: what each may risk, what a crash leaves, several writers, and how it is told."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import trimtab as tt
from tests.trial.conftest import DEEP, clusters
from trimtab.ledger import Ledger, LedgerError, allowance, read
from trimtab.records import ERROR, remark
from trimtab.report.decisions import said, write_decisions
from trimtab.report.plots.known import known_data
from trimtab.trial.summary import of_trials, saying

COMPARE = importlib.import_module("trimtab.trial.compare")  # the name is also that of its function


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "night.jsonl")


def decided(ledger: Ledger, key: str, **what) -> None:
    (one,) = ledger.begin("train.py", {key: key})
    ledger.end(msgspec.structs.replace(one, **what))


def test_all_decisions_together_risk_one_promise_and_a_kept_one_hands_its_part_on(ledger):
    for number in range(300):
        decided(ledger, str(number), verdict="better" if number in (3, 4, 100) else "same")
    found = ledger.decisions()
    kept = [one.number for one in found if one.kept]
    assert kept == [4, 5, 101]
    spent = math.fsum(one.alpha for one in found if not one.kept)  # what false ones may cost, if the kept are true
    assert spent < ERROR and all(one.alpha > 0 for one in found)
    assert found[4].alpha > found[3].alpha and found[5].alpha > found[4].alpha  # 4 and 5 were kept
    assert found[6].alpha < found[3].alpha
    never = [one for one in found if one.number < 4]
    assert [one.alpha for one in never] == [allowance(found[:number]) for number in range(3)]


def test_the_same_question_is_the_same_decision(ledger):
    first = ledger.begin("train.py", {"a": "1", "b": "2"})
    assert Ledger(ledger.path).begin("train.py", {"b": "2", "c": "3"})[0] == first[1]
    assert [one.number for one in ledger.decisions()] == [1, 2, 3]
    ledger.end(msgspec.structs.replace(first[0], effect=math.nan, high=math.inf, lines=("x", "y")))
    again = ledger.decisions()[0]
    assert math.isnan(again.effect) and again.high == math.inf and again.lines == ("x", "y") and again.ended > 0


def test_a_line_that_a_crash_has_cut_off_takes_nothing_with_it(ledger):
    decided(ledger, "a", verdict="better")
    with open(ledger.path, "a") as file:
        file.write('{"kind": "trimtab ledger", "number": 2, "arm": "b\n{"ki\n{"kind": "tri')
    assert [one.arm for one in ledger.decisions()] == ["a"]
    (one,) = ledger.begin("train.py", {"c": "c"})
    assert one.number == 2 and [one.arm for one in ledger.decisions()] == ["a", "c"]


def test_several_write_at_a_time(ledger):
    program = (
        "import sys; from trimtab.ledger import Ledger\n"
        "for i in range(20): Ledger(sys.argv[1]).begin('s', {f'{sys.argv[2]} {i}': f'{sys.argv[2]} {i}'})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(ledger.path), str(writer)]) for writer in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = ledger.decisions()
    assert [one.number for one in found] == list(range(1, 61)) and len({one.key for one in found}) == 60


def test_other_files_are_left_alone(tmp_path, trimtab, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    for call in (Ledger, read):
        with pytest.raises(LedgerError, match=r"train.py is no ledger: a line of it begins with 'print\(1\)'"):
            call(script)
    assert script.read_text() == "print(1)\n"
    with pytest.raises(LedgerError, match="cannot be read as a ledger: No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(LedgerError, match="cannot be a ledger: it is no file"):
        Ledger(tmp_path)
    shown = trimtab("compare", "--log", "train.py", "--with", "adam", "train.py")
    assert shown.exit_code == 2 and "train.py is no ledger" in shown.stderr
    assert trimtab("log", "none.jsonl").exit_code == 1
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in ("bytes", "\0", "/dev/null"):
        with pytest.raises(LedgerError):
            Ledger(path)
    newer = tmp_path / "newer.jsonl"
    newer.write_text('{"kind": "trimtab ledger", "number": 1, "verdict": "splendid"}\n')
    with pytest.raises(LedgerError, match="holds a decision that this version of trimtab does not read"):
        Ledger(newer)


def test_compare_decides_more_strictly_for_a_log_and_gives_up_early(trimtab, train, tmp_path, monkeypatch):
    train.write_text(clusters(DEEP, epochs=12))
    log = tmp_path / "night.jsonl"
    with monkeypatch.context() as patch:  # the time is over before it is decided
        cut = remark("looks_cut", seconds=1.0, seeds=1)
        patch.setattr(COMPARE, "decide", lambda session, arms, *_, **__: saying(of_trials(session, arms, [0], ""), cut))
        tt.compare(train, ["batch_norm", "lr_scale(factor=0.5)"], seeds=5, log=log)
    assert [(one.number, one.ended) for one in Ledger(log).decisions()] == [(1, 0.0), (2, 0.0)]
    found = tt.compare(train, ["batch_norm", "lr_scale(factor=0.5)"], seeds=5, log=log)
    better, idle = found.arms
    first, second = Ledger(log).decisions()
    assert better.p >= better.p_sign == 2 / 2 ** len(better.seeds)  # what small p rest on here
    assert better.p_holm == pytest.approx(min(1, better.p * ERROR / (2 * first.alpha)))
    assert (first.kept, first.verdict, first.effect, first.runs) == (
        False,
        "undecided",
        better.effect,
        len(better.seeds),
    )
    assert "With 5 seeds at most nothing can be as sure as that: it takes about 12." in found.words
    assert first.before == pytest.approx(better.mean - better.effect)
    assert not second.kept and second.runs <= 3 and len(idle.seeds) == second.runs
    ledger = Ledger(log)
    ledger.end(msgspec.structs.replace(first, verdict="better"))
    again = trimtab("compare", "--log", log, "--seeds", "5", "--with", " batch_norm()", "train.py")
    assert again.exit_code == 0 and [one.number for one in ledger.decisions()] == [1, 2]  # the same question
    other = trimtab("compare", "--log", log, "--seeds", "3", "--with", "batch_norm", "train.py")
    assert other.exit_code == 0 and [one.number for one in ledger.decisions()] == [1, 2, 3]  # another one
    ledger.end(msgspec.structs.replace(first, verdict="better"))
    shown = trimtab("log", str(log), "--html", "night.html", "--json", "night.json")
    assert shown.exit_code == 0 and shown.stdout.startswith(
        "1 of 3 decisions kept, and with probability 0.95 none of these falsely"
    )
    assert [one["arm"] for one in json.loads(Path("night.json").read_text())["decisions"]] == [
        "batch_norm",
        "lr_scale(factor=0.5)",
        "batch_norm",
    ]
    page = Path("night.html").read_text()
    assert "<svg" in page and page.count("<tr") == 4 and "What is really known" in page


def test_an_empty_ledger_and_what_terminals_obey_are_shown(ledger, tmp_path):
    assert said(()) == "0 of 0 decisions kept, and with probability 0.95 none of these falsely; 0 runs, 0.0 s"
    write_decisions(tmp_path / "a.html", "night.jsonl", ())
    decided(ledger, "<b>\x1b[31m", effect=0.1)
    page = write_decisions(tmp_path / "a.html", "night.jsonl", ledger.decisions()).read_text()
    assert "\x1b" not in page and "&lt;b&gt;" in page


def test_the_picture_is_of_one_script_and_what_is_best_of_it(ledger):
    def kept(subject: str, before: float, effect: float, metric: str = "accuracy", goal: str = "max") -> None:
        (one,) = ledger.begin(subject, {"a": f"{subject} {before} {effect} {metric}"})
        bounds = {"low": effect - 0.01, "high": effect + 0.01}
        ledger.end(
            msgspec.structs.replace(
                one, verdict="better", metric=metric, goal=goal, before=before, effect=effect, **bounds
            )
        )

    kept("a.py", 0.5, 0.2)
    kept("b.py", 3.0, 1.0, "loss", "min")
    kept("a.py", 0.5, 0.1)  # beside the first, which is better
    kept("a.py", 0.7, 0.1)
    assert known_data(ledger.decisions()).known == pytest.approx([0.7, 0.7, 0.8])
    kept("b.py", 2.0, 0.5, "loss", "min")
    data = known_data(ledger.decisions())
    assert data.known == pytest.approx([2.0, 1.5]) and data.low == pytest.approx([1.99, 1.49])
