"""What the code that prints a line says of the numbers in it."""

from __future__ import annotations

import linecache

import pytest

from trimtab.watching.printed import Lines
from trimtab.watching.saying import _NOT_THE_USERS, understood

BEGIN = """\
def accuracy(): return 0.75
def vloss(): return 0.75
class logs: test_acc = 0.75
acc = val_acc = auc = loss = mse = 0.75
accs, losses = [0.5, 0.75], {"val": 0.75}
def say(text): print(text)
"""


@pytest.fixture
def printed(monkeypatch):
    """The numbers in the lines that a script prints."""

    def run(script: str) -> dict[str, float]:
        found: dict[str, float] = {}
        lines, text, file = Lines(), BEGIN + script, f"/a folder/{hash(script)}.py"
        monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(True), file))

        def print(*values, **_):
            found.update(understood(lines.read(" ".join(map(str, values)))))

        exec(compile(text, file, "exec"), {"print": print})
        return found

    # The stand-in for print is no code of the user's.
    monkeypatch.setattr("trimtab.watching.saying._NOT_THE_USERS", (__file__, *_NOT_THE_USERS))
    return run


@pytest.mark.parametrize(
    ("script", "numbers"),
    [
        ("print('val', acc)", {"val accuracy": 0.75}),
        ("print('val', accuracy())", {"val accuracy": 0.75}),
        ("print(f'Val: {logs.test_acc:.2f}')", {"val accuracy": 0.75}),
        ("print('Val: {:.2f}'.format(accs[1]))", {"val accuracy": 0.75}),
        ("print('val %.2f' % losses['val'])", {"val loss": 0.75}),
        ("v = accuracy(); print(f'val {v}')", {"val accuracy": 0.75}),
        ("v = vloss(); print(f'val {v}')", {"val loss": 0.75}),
        ("def test(): return [accuracy()]\nr = test()\nprint('val {:.2f}'.format(*r))", {"val accuracy": 0.75}),
        ("text = f'val {acc}'\nprint(text)", {"val accuracy": 0.75}),
        ("form = 'Val: {:.2f}'; print(form.format(acc))", {"val accuracy": 0.75}),
        ("say(f'val {acc}')", {"val accuracy": 0.75}),
        ("print(acc); print('val', loss)", {"val loss": 0.75}),
        # several of one goal, and of two
        ("print(f'val {acc} test {auc}')", {"val score": 0.75, "test score": 0.75}),
        ("print(f'val {mse} test {loss}')", {"val loss": 0.75, "test loss": 0.75}),
        ("print(loss, 'val', acc)", {"val": 0.75}),
        ("print('val', 0.75 + 0)", {"val": 0.75}),
        # the line has a name of its own
        ("print('val auc', acc)", {"val auc": 0.75}),
        # what stands in the text of the code
        ("print('best val acc 0.99 in the paper')", {}),
        ("print('SOTA: test acc 91.2%, ours: val acc', acc)", {"val accuracy": 0.75}),
        ("say('val acc 0.99')", {}),
        ("text = 'val acc 0.99'; print(text)", {}),
    ],
)  # fmt: skip
def test_a_line_is_understood_by_the_code_that_prints_it(printed, script, numbers):
    assert printed(script) == numbers


def test_code_without_a_source_says_nothing():
    found = {}
    exec(
        compile("found.update(understood({'val': 0.5}))", "/nowhere.py", "exec"),
        {"found": found, "understood": understood},
    )
    assert found == {"val": 0.5}
