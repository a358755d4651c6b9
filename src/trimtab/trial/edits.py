"""Edits of a script as subjects: other arguments, another environment, another text of its files.

A trial lives in a view of the script's folder that is its own, so another version of its files is written there, and nobody else sees it.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.trial.subjects import Heard, Packed, Script, SubjectError, with_imports
from trimtab.watching import Ending


@dataclass(frozen=True)
class Edited(Script):
    """A script with other texts of its files, or other variables of the environment.

    Args:
        files: the script and what it imports, each as its path from the folder it imports from and its text; nothing for those that are
            there.
        variables: of the environment, each as its name and its value.
    """

    files: tuple[tuple[str, bytes], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def rewrites(self) -> bool:  # type: ignore[override]
        """Whether it writes its files before it runs: only where nobody else sees that."""
        return bool(self.files)

    @property
    def label(self) -> str:
        """How it is called, on a command line."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.variables), super().label])

    def texts(self) -> dict[Path, bytes]:
        """The text of each of its files."""
        return {self.root / name: text for name, text in self.files} or super().texts()

    def fingerprint(self) -> str:
        """That of a script of this text, and of the variables."""
        own = super().fingerprint()
        return hashlib.sha256(repr((own, self.variables)).encode()).hexdigest()[:16] if self.variables else own

    def sources(self) -> list[Path]:
        """Those of its files that can change."""
        return [] if self.files else super().sources()

    def packed(self) -> Packed:
        """As that of a script; the environment of another machine is its own."""
        if self.variables:
            raise SubjectError(
                "Variables of the environment do not go along to other machines: compare arguments in their place."
            )
        return super().packed()

    def run(self, heard: Heard) -> Ending:
        """Run it in the view of a trial, where its files may be written."""
        file = self.path if heard.file is None else heard.file  # the view may be a copy that lies elsewhere
        root = file.parents[len(self.path.relative_to(self.root).parts) - 1]
        for name, text in self.files:
            place = root / name
            if not (place.is_file() and place.read_bytes() == text):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(text)
        os.environ.update(self.variables)
        return super().run(heard)


def with_arguments(script: Script, text: str) -> Script:
    """The script with these arguments behind its own.

    Raises:
        SubjectError: if the text is none of a command line.
    """
    try:
        more = shlex.split(text)
    except ValueError as error:
        raise SubjectError(
            f"{text!r} is no command line: {error}. Write it as for a shell: \"--lr 0.1 --name 'a b'\"."
        ) from None
    if not more:
        raise SubjectError("--args '' changes nothing. Give the arguments of an arm: --args \"--lr 0.1\".")
    return replace(script, arguments=(*script.arguments, *more))


def with_variables(script: Script, text: str) -> Edited:
    """The script with these variables of the environment: ``"WIDTH=64 DEPTH=3"``.

    Raises:
        SubjectError: if they are no assignments.
    """
    try:
        pairs = [part.partition("=") for part in shlex.split(text)]
    except ValueError:
        pairs = []
    if not pairs or not all(name.isidentifier() and sign for name, sign, _ in pairs):
        raise SubjectError(
            f"{text!r} sets no variables of the environment. Write NAME=VALUE, several with blanks between them."
        )
    variables = tuple((name, value) for name, _, value in pairs)
    return Edited(script.target, script.arguments, script.module, variables=variables)


def version_of(script: Script, version: str) -> Script:
    """Another version of the script, with its arguments: a file, or what its repository has as a revision (``HEAD~1``, a branch, a tag).

    Raises:
        SubjectError: if there is neither.
    """
    path = Path(version)
    if path.is_file():
        return Script(version, script.arguments)
    if path.suffix == ".py":
        raise SubjectError(f"There is no file {version} to compare with.")
    return at_revision(script, version)


def at_revision(script: Script, revision: str) -> Edited:
    """The script and the modules that it imports as a revision of its repository has them, read from there: no file is touched. Others that
    it reads, such as data and configuration, are those that are there.

    Raises:
        SubjectError: if it lies in no repository, or there is no such revision, or that has no such script.
    """
    folder = script.path.parent
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise SubjectError(
            f"{script.target} lies in no git repository that git reads, and there is no file {revision!r}: give one of them to compare with."
        )
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise SubjectError(
            f"There is neither a file {revision!r} nor a revision of that name in {top.decode().strip()}."
        )
    name, real = commit.decode().strip(), Path(os.path.realpath(top.decode().rstrip("\n")))

    def read(path: Path) -> bytes:
        inside = Path(os.path.realpath(path.parent)) / path.name
        if real not in inside.parents:
            raise FileNotFoundError(path)
        text = _git(folder, "cat-file", "blob", f"{name}:{inside.relative_to(real).as_posix()}")
        if text is None:
            raise FileNotFoundError(path)
        return text

    files = with_imports(script.path, script.root, read)
    if not files:
        raise SubjectError(f"{revision} ({name[:12]}) has no {script.path.name} in this folder.")
    named = sorted((os.path.relpath(path, script.root), text) for path, text in files.items())
    return Edited(script.target, script.arguments, script.module, files=tuple(named))


def difference(script: Script, other: Script) -> list[str]:
    """What leads from a script to an edit of it, in lines: a unified difference of their texts, or how it is called."""
    lines: list[str] = []
    ours, theirs = script.texts(), other.texts()
    pairs = [(script.path, other.path)] + [
        (path, path) for path in sorted({*ours, *theirs} - {script.path, other.path})
    ]
    for before, after in pairs:
        was, now = (
            text.get(path, b"").decode(errors="replace").splitlines()
            for text, path in ((ours, before), (theirs, after))
        )
        names = [os.path.relpath(path, script.root) for path in (before, after)]
        lines += difflib.unified_diff(was, now, names[0], names[1], lineterm="", n=1)
    variables = getattr(other, "variables", ())
    if other.arguments != script.arguments or variables:
        said = [f"{name}={shlex.quote(value)}" for name, value in variables]
        lines.append(" ".join([*said, *["-m"] * other.module, other.target, *map(shlex.quote, other.arguments)]))
    return lines


def _git(folder: Path, *command: str) -> bytes | None:
    """What git says; None where it refuses, or there is none. Nothing of the repository is locked, refreshed or asked for."""
    alone = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        ended = subprocess.run(["git", *command], cwd=folder, capture_output=True, env=os.environ | alone, check=False)
    except OSError:
        return None
    return ended.stdout if ended.returncode == 0 else None


Edits = list[tuple[str, Script]]
"""Arms that are edits, by the names that they have in tables."""
