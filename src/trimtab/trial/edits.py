"""Edits of a script as subjects: other arguments, another environment, another text of its files.

A trial lives in a view of the script's folder that is its own, so another version of its files is written there, and nobody else sees it.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.trial.subjects import Heard, Packed, Script, SubjectError, with_imports
from trimtab.trial.views import outermost
from trimtab.watching import Ending

LINK = "120000"  # the mode of a symbolic link in git
BEFORE = ("PYTHON", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "LD_", "MALLOC_", "TORCH_", "TRIMTAB_")
"""Variables of the environment that begin so are read before a script starts, and not again."""


@dataclass(frozen=True)
class Edited(Script):
    """A script with other texts of its files, or other variables of the environment.

    Args:
        files: those that are others, each as its path from the folder of the script and its text, or nothing for one that is not there.
        variables: of the environment, each as its name and its value.
        elsewhere: files of the version that are others, too, and stay as they are: they lie outside of what a trial has to itself.
    """

    files: tuple[tuple[str, bytes | None], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def rewrites(self) -> bool:  # type: ignore[override]
        """Whether it writes its files before it runs: only where nobody else sees that."""
        return bool(self.files)

    @property
    def label(self) -> str:
        """How it is called, on a command line."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.variables), super().label])

    def texts(self) -> dict[Path, bytes]:
        """The text of the script and of what it imports, in this version."""
        others = {Path(os.path.normpath(self.path.parent / name)): text for name, text in self.files}

        def read(path: Path) -> bytes:
            text = others[path] if path in others else path.read_bytes()
            if text is None:
                raise FileNotFoundError(path)
            return text

        return with_imports(self.path, self.root, read)

    def fingerprint(self) -> str:
        """That of a script of this text; and of other files of the version, and of variables, where there are any."""
        own, imported = super().fingerprint(), {os.path.relpath(path, self.path.parent) for path in self.texts()}
        more = [(name, text) for name, text in self.files if name not in imported]
        return (
            hashlib.sha256(repr((own, more, self.variables)).encode()).hexdigest()[:16]
            if more or self.variables
            else own
        )

    def packed(self) -> Packed:
        """As that of a script; the environment of another machine is its own."""
        if self.variables:
            raise SubjectError(
                "Variables of the environment do not go along to other machines: compare arguments in their place."
            )
        return super().packed()

    def run(self, heard: Heard) -> Ending:
        """Run it in the view of a trial, where its files may be written."""
        folder = (self.path if heard.file is None else heard.file).parent  # the view may be a copy that lies elsewhere
        for name, text in self.files:
            place = Path(os.path.normpath(folder / name))
            place.unlink(missing_ok=True)  # what is behind a link stays as it is
            if text is not None:
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
    if early := [name for name, _ in variables if name.startswith(BEFORE)]:
        raise SubjectError(
            f"{early[0]} is read before a script starts, so a trial cannot have one of its own: set it for the whole command, and compare "
            "what commands with another one say."
        )
    return Edited(script.target, script.arguments, script.module, variables=variables)


def version_of(script: Script, version: str) -> Script:
    """Another version of the script, with its arguments: a file, or what its repository has as a revision (``HEAD~1``, a branch, a tag).

    Raises:
        SubjectError: if there is neither.
    """
    if not Path(version).is_file():
        return at_revision(script, version)
    if script.module:
        raise SubjectError(
            f"{version} is a file, and {script.target} runs as a module: name its other version by a revision."
        )
    return Script(version, script.arguments)


def at_revision(script: Script, revision: str) -> Edited:
    """The script, and all Python files of the folders that a trial has to itself, as a revision of its repository has them, read from there:
    no file is touched. Those that the revision does not have are not there. Files that git does not track, data and configuration are
    those that are there now.

    Raises:
        SubjectError: if it lies in no repository, or there is no such revision, or that has no such script.
    """
    folder = Path(os.path.realpath(script.path.parent))
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise SubjectError(
            f"There is no file {revision!r}, and {script.target} lies in no git repository that git reads: give one of them to compare with."
        )
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise SubjectError(
            f"There is neither a file {revision!r} nor a revision of that name in {top.decode().strip()}."
        )
    name, real = commit.decode().strip(), Path(os.path.realpath(top.decode().rstrip("\n")))
    then = {path: (mode, blob) for mode, blob, path in _tree(real, name) if path.endswith(".py")}
    own = os.path.relpath(folder / script.path.name, real)
    if own not in then:
        raise SubjectError(f"{revision} ({name[:12]}) has no {own}.")
    tracked = (_git(real, "ls-files", "-z") or b"").decode(errors="surrogateescape").split("\0")
    now = {path for path in tracked if path.endswith(".py") and os.path.lexists(real / path)}
    roots = outermost([*script.roots, folder])
    around = next((root for root in roots if root == folder or root in folder.parents), folder)
    files: list[tuple[str, bytes | None]] = []
    elsewhere = []
    for path in sorted({*then, *now}):
        mode, blob = then.get(path, ("", ""))
        place = real / path
        if mode and _is(place, blob):
            continue
        inside = around in place.parents and Path(os.path.realpath(place.parent)) == place.parent
        if not inside or mode == LINK:
            elsewhere.append(path)
            continue
        text = _git(real, "cat-file", "blob", blob) if mode else None
        files.append((os.path.relpath(place, folder), text))
    return Edited(script.target, script.arguments, script.module, files=tuple(files), elsewhere=tuple(elsewhere))


def _tree(top: Path, commit: str) -> Iterator[tuple[str, str, str]]:
    """The mode, the blob and the path of all files of a commit."""
    listed = _git(top, "ls-tree", "-r", "-z", "--full-tree", commit) or b""
    for entry in listed.decode(errors="surrogateescape").split("\0"):
        about, _, path = entry.partition("\t")
        if path and about.split()[1] == "blob":
            yield about.split()[0], about.split()[2], path


def _is(place: Path, blob: str) -> bool:
    """Whether a file is what git calls so."""
    try:
        text = os.readlink(place).encode() if place.is_symlink() else place.read_bytes()
    except OSError:
        return False
    digest = hashlib.sha256 if len(blob) == 64 else hashlib.sha1
    return digest(b"blob %d\0" % len(text) + text).hexdigest() == blob


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
