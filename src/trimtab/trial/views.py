"""Views: every trial sees the script's folder as it was when the command began, and writes into a folder of its own.

Where the system allows it, the view is an overlay that only the process of the trial has (:mod:`trimtab.trial.overlay`). Elsewhere it is a
copy of the folder, with large files linked. Where the folder is too large for that, trials run in it, one at a time, and what
they change is put back after each. In every case a journal notices what is written outside of the view.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trimtab.records import Remark, remark
from trimtab.store import FOLDER
from trimtab.trial import overlay
from trimtab.trial.journal import Deeds, Journal, deeds_of, put_back, state_of

How = Literal["overlay", "copy", "shared"]

LINKED = 50_000_000  # bytes of a file from which on a copy of its folder has a link to it
LARGEST = 2_000_000_000  # bytes that are copied for a trial at most
MOST = 20_000  # files
_LEFT_OUT = (FOLDER, "__pycache__")
_LINKED_FOLDERS = ("node_modules", ".venv", "venv")
_REFLINK = 0x40049409  # FICLONE of Linux
CHOICE = "TRIMTAB_VIEWS"


@dataclass(frozen=True)
class View:
    """What one trial sees, and where its changes go. Sent to the process of the trial.

    ``roots`` are the folders that are its own; ``home`` has what it writes; ``alone`` says that no other trial runs beside it.
    """

    how: How
    roots: tuple[Path, ...]
    home: Path
    hide: tuple[Path, ...] = ()
    alone: bool = True

    def enter(self) -> None:
        """Begin to live in it: in the process of the trial, while that has one thread, in the folder where the command was given."""
        here = Path(os.path.realpath(os.getcwd()))
        below: list[int] = []  # the folders themselves, under an overlay
        copied: dict[str, dict[str, Any]] = {}  # what was copied, as it was then

        def found(path: str) -> dict[str, Any]:
            for folder, root in zip(below, self.roots, strict=False):
                if _lies_in(path, root):
                    return state_of(os.path.relpath(path, root), folder)
            return copied[path] if path in copied else state_of(self.original(path))

        journal = Journal(self.home, self._inside, self.alone, found, self._before_write)
        if self.how == "overlay":
            below += overlay.mount_over(self.roots, self.home, self.hide)
            _rename_across_layers()
        elif self.how == "copy":
            for number, root in enumerate(self.roots):
                copied |= copy_folder(root, self.home / str(number))
            os.chdir(self.place(here))
            if "PWD" in os.environ:
                os.environ["PWD"] = os.getcwd()
        journal.begin()

    def place(self, path: Path) -> Path:
        """Where something of the user's folders is in this view."""
        if self.how == "copy":
            for number, root in enumerate(self.roots):
                if path == root or root in path.parents:
                    return self.home / str(number) / path.relative_to(root)
        return path

    def original(self, path: str) -> str:
        """Where something of this view is in the user's folders."""
        for number, root in enumerate(self.roots) if self.how == "copy" else ():
            own = self.home / str(number)
            if _lies_in(path, own):
                return os.path.normpath(root / os.path.relpath(path, own))
        return path

    def _inside(self, path: str) -> bool:
        if self.how == "shared":
            return False
        folders = self.roots if self.how == "overlay" else (self.home,)
        return any(_lies_in(path, one) for one in folders)

    def _before_write(self, path: str, anew: bool) -> None:
        """In a copy, what is linked becomes a file of its own before it is written."""
        if self.how != "copy" or not os.path.islink(path):
            return
        target = os.readlink(path)
        if any(target.startswith(f"{root}{os.sep}") for root in self.roots):
            os.unlink(path)
            if not anew:
                shutil.copy2(target, path)


class Views:
    """Makes the views of a session's trials, and clears up behind them.

    Args:
        roots: the folders that each trial has to itself: where the command was given, and that of the script.
        folder: ``.trimtab``, under which changes are kept while a trial runs.
        keep: leave the folders of trials where they are.
    """

    def __init__(self, roots: Sequence[Path], folder: Path, keep: bool = False) -> None:
        self.roots = outermost(roots)
        self.folder, self.keep = folder, keep
        self.trials = _trials(folder)
        recover(self.trials)
        self.base = Path(tempfile.mkdtemp(prefix="session-", dir=self.trials))
        self._lock = _locked(self.base)
        self.how, self.why = self._choose()
        self.alone = self.how == "shared"
        self.outside: list[str] = []  # what trials write outside of their views
        self.lost: list[str] = []  # what could not be put back
        self.collided = ""  # how a trial failed beside others that went well alone
        self.failures: set[str] = set()  # how trials failed that ran alone
        self.seen: dict[str, dict[str, Any]] = {}  # files of the folders, as the first trials met them
        self._finish = weakref.finalize(self, _leave, self.base, self.trials, self._lock)

    def _choose(self) -> tuple[How, str]:
        wanted = os.environ.get(CHOICE, "")
        if not self.roots:
            return "shared", f"{Path.cwd()} is no folder of a project"
        why = f"{CHOICE}={wanted}" if wanted in ("copy", "shared") else self._why_no_overlay()
        if not why:
            return "overlay", ""
        large = "" if wanted else too_large(self.roots)
        return (
            ("copy", why)
            if wanted == "copy" or not (wanted or large)
            else ("shared", "; ".join(filter(None, [why, large])))
        )

    def _why_no_overlay(self) -> str:
        if not sys.platform.startswith("linux"):
            return "it takes the mount namespaces of Linux"
        probe = self.base / "probe"
        probe.mkdir()
        command = [sys.executable, "-I", str(overlay.__file__), str(probe), *map(str, self.roots)]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            clear(probe)
        said = tried.stderr.strip().splitlines() or ["it was refused"]
        return said[-1] if tried.returncode else ""

    def open(self, name: str, alone: bool) -> View:
        """A view for a trial of that name."""
        home = self.base / name
        clear(home)
        home.mkdir(parents=True)
        hide = tuple(dict.fromkeys([*(root / FOLDER for root in self.roots), self.folder]))
        return View(self.how, self.roots, home, hide, alone)

    def close(self, view: View) -> Deeds:
        """A trial has ended: put back what it changed outside, clear up, and tell what it did."""
        deeds = deeds_of(view.home)
        self.lost += put_back(view.home, deeds)
        met = [*deeds.paths, *filter(None, [deeds.disturbs])]
        self.outside += [path for path in met if path not in self.outside]
        self.alone = self.alone or bool(met)
        deeds = replace(deeds, seen=_as_found(view, deeds))
        self.seen = deeds.seen | self.seen
        if self.keep:
            for part in ("journal", "kept", *(f"work{number}" for number in range(len(self.roots)))):
                clear(view.home / part)
            kept = self.trials / view.home.name
            clear(kept)
            view.home.rename(kept)
        else:
            clear(view.home)
        return deeds

    def remarks(self) -> list[Remark]:
        """What users should know of how their trials were kept apart."""
        said = []
        if self.how == "copy":
            said.append(remark("ran_in_copies", why=self.why, linked=LINKED // 1_000_000))
        if self.how == "shared":
            said.append(remark("ran_in_one_folder", why=self.why))
        elif self.outside:
            said.append(remark("wrote_outside", paths=self.outside[:3], more=max(0, len(self.outside) - 3)))
        if self.collided and self.how != "shared":
            said.append(remark("failed_beside_others", why=self.collided))
        if self.lost:
            said.append(remark("not_put_back", paths=self.lost[:3]))
        return said


def changed_since(seen: dict[str, dict[str, Any]], anew: bool = True) -> list[str]:
    """Those of the files that are not as they were when they were seen; with ``anew`` also those whose contents nobody read."""
    return [path for path, met in seen.items() if (anew or not met["anew"]) and state_of(path) != met["state"]]


def _lies_in(path: str, folder: Path) -> bool:
    return path == str(folder) or path.startswith(f"{folder}{os.sep}")


def _as_found(view: View, deeds: Deeds) -> dict[str, dict[str, Any]]:
    """The files that a trial has met, as they are called and were found in the user's folders."""
    seen = {view.original(path): met for path, met in deeds.seen.items()}
    restored = set(map(_identity, deeds.paths)) - {None}
    for path in seen if restored else ():
        if _identity(path) in restored:  # under another name it lies outside: it was changed there, and put back
            seen[path] = seen[path] | {"state": state_of(path)}
    return seen


def _identity(path: str) -> tuple[int, int] | None:
    """The same for all names of a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _leave(base: Path, trials: Path, lock: Any) -> None:
    if lock is not None:
        lock.close()
    clear(base)
    with contextlib.suppress(OSError):
        trials.rmdir()


def outermost(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The folders without those that lie in others of them, and without what is no folder of a project: the root, and homes' parents."""
    real = [Path(os.path.realpath(folder)) for folder in folders]
    real = [folder for folder in dict.fromkeys(real) if len(folder.parts) > 1 and folder.is_dir()]
    return tuple(one for one in real if not any(other in one.parents for other in real))


def _trials(folder: Path) -> Path:
    """Where the folders of trials are: beside the records, or, if that cannot be written, among the temporary files."""
    trials = Path(os.path.realpath(folder)) / "trials"
    try:
        trials.mkdir(parents=True, exist_ok=True)
        (trials / ".probe").touch()
        (trials / ".probe").unlink()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="trimtab-trials-"))
    return trials


def _locked(base: Path) -> Any:
    """A file that is locked as long as the session lives; ``None`` if another one holds it."""
    file = open(base / "lock", "w")  # noqa: SIM115 - it is open as long as the lock is held
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        file.close()
        return None
    return file


def recover(trials: Path) -> None:
    """Put back, and clear up, what sessions have left behind that were killed."""
    for base in trials.glob("session-*"):
        with contextlib.suppress(OSError):
            lock = _locked(base)
            if lock is None:
                continue
            for home in base.iterdir():
                if home.is_dir():
                    put_back(home, deeds_of(home))
            lock.close()
            clear(base)


def folder_name(recipe: str, seed: int, key: str) -> str:
    """A name for the folder of a trial.

    >>> folder_name("batch_norm(after='linear')", 3, "key")
    'batch_norm-after-linear-seed3-2c70e12b'
    """
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", recipe or "untreated").strip("-")[:60]
    return f"{words}-seed{seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def clear(path: Path) -> None:
    """Remove a folder or file, also one that an overlay has left without permissions."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            for folder, below, _ in os.walk(path):
                for each in (folder, *(os.path.join(folder, name) for name in below)):
                    with contextlib.suppress(OSError):
                        if not os.path.islink(each):
                            os.chmod(each, stat.S_IRWXU)
            shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


# -- copies ----------------------------------------------------------------------------------------------------------


def too_large(roots: Sequence[Path]) -> str:
    """Why a copy for every trial would be too much; nothing if it is not."""
    files = size = 0
    for root in roots:
        for entry in _entries(str(root)):
            files += 1
            with contextlib.suppress(OSError):
                length = entry.stat(follow_symlinks=False).st_size
                size += length if length < LINKED else 0
            if files > MOST or size > LARGEST:
                return f"{root} has more than {MOST:,} files or {LARGEST // 10**9} GB of small ones, too much to copy for every trial"
    return ""


def _entries(folder: str) -> Iterator[os.DirEntry]:
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if entry.name in _LEFT_OUT or _is_linked_folder(entry):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
            else:
                yield entry


def _is_linked_folder(entry: os.DirEntry) -> bool:
    if not entry.is_dir(follow_symlinks=False):
        return False
    return entry.name in _LINKED_FOLDERS or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))


def copy_folder(root: Path, to: Path) -> dict[str, dict[str, Any]]:
    """Copy a folder with its times and modes; large files and environments become links. The states of all that was copied, by new path."""
    states: dict[str, dict[str, Any]] = {}
    _copy(root, to, (root, to), states)
    return states


def _copy(folder: Path, to: Path, whole: tuple[Path, Path], states: dict[str, dict[str, Any]]) -> None:
    to.mkdir(parents=True)
    for entry in os.scandir(folder):
        if entry.name in _LEFT_OUT:
            continue
        place = to / entry.name
        states[str(place)] = state_of(entry.path)
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if entry.is_symlink():
                place.symlink_to(_moved(os.readlink(entry.path), *whole))
            elif _is_linked_folder(entry):
                place.symlink_to(entry.path)
            elif entry.is_dir():
                _copy(Path(entry.path), place, whole, states)
            elif entry.is_file() and not _reflinked(entry.path, place):
                if entry.stat().st_size >= LINKED:
                    place.symlink_to(entry.path)
                else:
                    shutil.copy2(entry.path, place)
    shutil.copystat(folder, to)


def _moved(target: str, root: Path, to: Path) -> str:
    """Where a link of the folder into itself leads in the copy."""
    return str(to / Path(target).relative_to(root)) if Path(target).is_relative_to(root) else target


def _reflinked(source: str, target: Path) -> bool:
    """Let the file system share the contents until one of the two is written, where it can."""
    try:
        import fcntl

        if os.path.getsize(source) < 1_000_000:
            return False
        with open(source, "rb") as old, open(target, "wb") as new:
            fcntl.ioctl(new.fileno(), _REFLINK, old.fileno())
        shutil.copystat(source, target)
        return True
    except (ImportError, OSError):
        target.unlink(missing_ok=True)
        return False


def _rename_across_layers() -> None:
    """In an overlay without privileges, a folder of the layer below cannot be renamed in one go: then it is copied and removed, as ``mv`` does."""
    import errno

    def moving(original: Any) -> Any:
        def rename(src: Any, dst: Any, **kwargs: Any) -> None:
            try:
                original(src, dst, **kwargs)
            except OSError as error:
                if error.errno != errno.EXDEV or kwargs or not os.path.isdir(src) or os.path.islink(src):
                    raise
                if os.path.isdir(dst):
                    os.rmdir(dst)  # as rename: only if it is empty
                try:
                    shutil.copytree(src, dst, symlinks=True)
                    for folder, _, _ in os.walk(src):  # what is in a folder need not be writable to be moved with it
                        os.chmod(folder, stat.S_IRWXU)
                except OSError:
                    clear(Path(dst))
                    raise error from None
                shutil.rmtree(src)

        rename.__name__ = original.__name__
        return rename

    os.rename, os.replace = moving(os.rename), moving(os.replace)
