"""What a trial did to files: which it found in its view, and what it wrote outside of it.

In the process of a trial an audit hook hears of every file that is opened, moved or removed from Python (and of what ``torch.save``
writes). Before something outside of the view is changed for the first time, what was there is kept, so that the driver can put it back.
A trial that runs beside others changes nothing there: it ends at once, and is run again alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.watching.late import when_imported

MOST = 20_000  # files in the view that are remembered
NAME, KEPT, DISTURBS = "journal", "kept", "disturbs"

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NO_FILES = ("/dev/", "/proc/", "/sys/", "/run/")


def caches() -> tuple[str, ...]:
    """Folders in which programs keep what they can make again, under names that say what it is: trials may share these."""
    home = os.path.expanduser("~")
    found = [os.path.join(home, ".cache"), os.path.join(home, ".config", "matplotlib"), os.path.join(home, ".triton")]
    for name in (
        "XDG_CACHE_HOME",
        "HF_HOME",
        "TORCH_HOME",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "MPLCONFIGDIR",
    ):
        if value := os.environ.get(name):
            found.append(value)
    user = os.environ.get("USER") or "root"
    found.append(os.path.join(tempfile.gettempdir(), f"torchinductor_{user}"))
    return tuple(os.path.realpath(path) + os.sep for path in found)


class Journal:
    """Keeps the journal of a trial, in its process and in those that it forks.

    Args:
        home: the folder of the trial; ``journal`` in it gets a line for every entry, ``kept`` what was there before.
        inside: whether a path (absolute, without links) lies in the view of the trial.
        alone: whether it is the only trial that runs; others end before they change something outside.
        found: how something in the view was when the trial began, whatever has been done to it since.
        before_write: is called with every path in the view that is going to be opened for writing, and whether it will be emptied.
    """

    def __init__(
        self,
        home: Path,
        inside: Callable[[str], bool],
        alone: bool,
        found: Callable[[str], dict[str, Any]],
        before_write: Callable[[str, bool], None] = lambda path, anew: None,
    ) -> None:
        self.home, self.inside, self.alone, self.found, self.before_write = home, inside, alone, found, before_write
        self._main = os.getpid()
        # Opened now: in a view these folders cannot be seen.
        self._home = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        os.makedirs(home / KEPT, exist_ok=True)
        self._kept = os.open(home / KEPT, os.O_RDONLY | os.O_DIRECTORY)
        self._lines = os.open(home / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._caches = caches()
        self._private: list[str] = []  # temporary files and folders that were made for this process alone
        self._seen: set[str] = set()
        self._altered: list[str] = []  # folders of the view that are no longer those that were found
        self._changed: set[str] = set()
        self._made: list[str] = []  # what was not there outside of the view before
        self._own = threading.local()  # what we do ourselves is not noted

    def begin(self) -> None:
        """Hear of everything from here on."""
        handlers: dict[str, Callable[..., None]] = {
            "open": self._open,
            "os.rename": self._rename,
            "os.remove": lambda path, folder=-1: self._write(path, folder),
            "os.rmdir": lambda path, folder=-1: self._write(path, folder),
            "os.mkdir": lambda path, mode=0, folder=-1: self._write(path, folder, makes=True),
            "os.link": lambda src, dst, a=-1, b=-1: self._write(dst, b),
            "os.symlink": lambda src, dst, folder=-1: self._write(dst, folder),
            "os.truncate": lambda path, length=0: self._write(path),
            "os.chmod": lambda path, mode=0, folder=-1: self._write(path, folder),
            "os.chown": lambda path, user=0, group=0, folder=-1: self._write(path, folder),
            "sqlite3.connect": lambda path: self._write(path) if path != ":memory:" else None,
            "tempfile.mkstemp": self._temporary,
            "tempfile.mkdtemp": self._temporary,
        }

        def hook(event: str, arguments: tuple) -> None:
            handler = handlers.get(event)
            if handler is None or getattr(self._own, "busy", False):
                return
            self._own.busy = True
            try:
                handler(*arguments)
            except (OSError, TypeError, ValueError):  # a path that is none: the script will meet the error itself
                pass
            finally:
                self._own.busy = False

        sys.addaudithook(hook)
        _tell_of_native_writers()

    # -- what happens ------------------------------------------------------------------------------------------------

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int) or not isinstance(flags, int):
            return
        if flags & _WRITES and os.path.isdir(path):  # for a file without a name (O_TMPFILE), or refused
            return
        if flags & _WRITES and not flags & getattr(os, "O_PATH", 0):
            self._write(path, anew=bool(flags & os.O_TRUNC), opens=True)
        else:
            self._read(path)

    def _rename(self, src: Any, dst: Any, src_folder: int = -1, dst_folder: int = -1) -> None:
        self._write(src, src_folder, whole=True)
        self._write(dst, dst_folder)

    def _temporary(self, path: Any) -> None:
        self._private.append(os.path.realpath(os.fsdecode(path)))

    def _read(self, path: Any) -> None:
        place = os.path.abspath(os.fsdecode(path))
        if place in self._seen:
            return
        if self.inside(place):
            self._see(place)

    def _see(self, place: str, anew: bool = False) -> None:
        """Note how a file in the view was found, when the trial meets it first; ``anew`` if it does not matter, since it is emptied."""
        self._seen.add(place)
        if any(place.startswith(own) for own in self._altered):  # in a folder that the trial has made, or moved there
            return
        if len(self._seen) <= MOST and "__pycache__" not in place:
            self._note("seen", place, anew=anew, state=self.found(place))

    def _write(
        self,
        path: Any,
        folder: int = -1,
        *,
        anew: bool = False,
        opens: bool = False,
        makes: bool = False,
        whole: bool = False,
    ) -> None:
        """Something is going to be opened for writing (``anew``: emptied), made, moved with all that is in it (``whole``), or changed."""
        text = os.fsdecode(path)
        if folder is not None and folder >= 0 and not os.path.isabs(text):
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        place = os.path.abspath(text)
        if self.inside(place):
            if place not in self._seen:
                self._see(place, anew)
            if opens:
                self.before_write(place, anew)
            elif not (makes and os.path.lexists(place)) and place + os.sep not in self._altered:
                self._altered.append(place + os.sep)
        # where it really goes: a link may lead outside, and the last part of a path is changed itself, unless it is opened
        real = (
            os.path.realpath(place)
            if opens
            else os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        )
        if real in self._changed or self.inside(real) or self._may_be_shared(real) or (makes and os.path.lexists(real)):
            return
        if not self.alone:
            self._leave(real)
        if any(real.startswith(made) for made in self._made):  # it goes with the folder
            return
        self._changed.add(real)
        self._keep(real, whole)

    def _may_be_shared(self, place: str) -> bool:
        return (
            place.startswith((*_NO_FILES, *self._caches))
            or "__pycache__" in place
            or any(place == own or place.startswith(own + os.sep) for own in self._private)
        )

    def _keep(self, place: str, whole: bool = False) -> None:
        """Keep what is there, so that it can be put back."""
        try:
            found = os.lstat(place)
        except OSError:
            self._note("made", place)
            self._made.append(place + os.sep)
            return
        times = [found.st_atime_ns, found.st_mtime_ns]
        if stat.S_ISLNK(found.st_mode):
            self._note("link", place, to=os.readlink(place), times=times)
        elif stat.S_ISDIR(found.st_mode):
            self._note("folder", place, mode=stat.S_IMODE(found.st_mode))
            for below in sorted(os.scandir(place), key=lambda entry: entry.name) if whole else ():
                if below.path not in self._changed:
                    self._changed.add(below.path)
                    self._keep(below.path, whole)
        elif stat.S_ISREG(found.st_mode):
            name = hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
            with (
                open(place, "rb") as source,
                open(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=self._kept), "wb") as copy,
            ):
                shutil.copyfileobj(source, copy, 1 << 20)
            self._note("file", place, copy=name, mode=stat.S_IMODE(found.st_mode), times=times)

    def _note(self, what: str, place: str, **more: Any) -> None:
        os.write(self._lines, (json.dumps({"what": what, "path": place, **more}) + "\n").encode())

    def _leave(self, place: str) -> None:
        """End the trial, before it changes what others may see."""
        said = os.open(DISTURBS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._home)
        os.write(said, os.fsencode(place))
        os.close(said)
        with contextlib.suppress(OSError):
            if os.getpid() != self._main:
                os.kill(self._main, 9)
        os._exit(1)


def state_of(path: str | Path, folder: int | None = None) -> dict[str, Any]:
    """What tells whether a file is still the same: its size and time of change; nothing if there is none.

    A relative path begins at the ``folder``, if one is given that is open.
    """
    try:
        found = os.stat(path, dir_fd=folder)
    except (OSError, ValueError):
        return {}
    if stat.S_ISREG(found.st_mode):
        return {"size": found.st_size, "time": found.st_mtime_ns}
    return {"folder": True} if stat.S_ISDIR(found.st_mode) else {"kind": stat.S_IFMT(found.st_mode)}


def _tell_of_native_writers() -> None:
    """Let writers that open files by themselves say so, as Python's do."""
    import torch

    def path_first(original: Callable) -> Callable:
        @functools.wraps(original)
        def writer(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, (str, os.PathLike)):
                sys.audit("open", os.fspath(path), "w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            return original(path, *args, **kwargs)

        return writer

    with contextlib.suppress(AttributeError):
        torch.serialization._open_zipfile_writer = path_first(torch.serialization._open_zipfile_writer)
    with contextlib.suppress(ImportError, AttributeError):
        import safetensors.torch

        safe: Any = safetensors.torch
        original = safe.serialize_file

        @functools.wraps(original)
        def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
            sys.audit("open", os.fspath(filename), "w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            return original(tensors, filename, *args, **kwargs)

        safe.serialize_file = serialize_file
    mapped = torch.from_file

    @functools.wraps(mapped)
    def from_file(filename: Any, shared: Any = None, *args: Any, **kwargs: Any) -> Any:
        if shared:
            sys.audit("open", os.fspath(filename), "r+", os.O_RDWR | os.O_CREAT)
        return mapped(filename, shared, *args, **kwargs)

    torch.from_file = from_file
    when_imported("h5py", _tell_of_h5py)


def _tell_of_h5py(module: Any) -> None:
    original = module.File.__init__

    @functools.wraps(original)
    def opened(self: Any, name: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> None:
        if isinstance(name, (str, bytes, os.PathLike)) and mode not in ("r", None):
            sys.audit("open", os.fspath(name), mode, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if mode == "w" else 0))
        original(self, name, mode, *args, **kwargs)

    module.File.__init__ = opened


# -- in the driver ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deeds:
    """What a trial did to files, read from its journal.

    ``seen`` are the files of the view by path, each with its state when the trial met it, and whether it was emptied at once (``anew``);
    ``outside`` what it changed elsewhere, in order; ``disturbs`` what it would have changed there beside others, if it ended before that.
    """

    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    outside: tuple[dict[str, Any], ...] = ()
    disturbs: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """What it changed outside of its view."""
        return tuple(entry["path"] for entry in self.outside)


def deeds_of(home: Path) -> Deeds:
    """Read the journal of a trial that has ended."""
    seen: dict[str, dict[str, Any]] = {}
    outside = []
    for entry in _entries(home / NAME):
        if entry["what"] == "seen":
            seen.setdefault(entry["path"], {"anew": entry["anew"], "state": entry["state"]})
        else:
            outside.append(entry)
    try:
        disturbs = os.fsdecode((home / DISTURBS).read_bytes())
    except OSError:
        disturbs = ""
    return Deeds(seen, tuple(outside), disturbs)


def _entries(file: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError), open(file, "rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # of a process that was killed while it wrote
                yield json.loads(line)


def put_back(home: Path, deeds: Deeds) -> list[str]:
    """Put back what a trial changed outside of its view; what could not be put back."""
    failed: list[str] = []
    by_path = {entry["path"]: entry for entry in reversed(deeds.outside)}  # the first entry of a path tells how it was
    made = [entry for entry in by_path.values() if entry["what"] == "made"]
    there = [entry for entry in by_path.values() if entry["what"] != "made"]
    for entry in sorted(made, key=lambda entry: -len(entry["path"])):
        _undo(functools.partial(_remove, Path(entry["path"])), entry["path"], failed)
    for entry in sorted(there, key=lambda entry: len(entry["path"])):
        _undo(functools.partial(_restore, home, entry), entry["path"], failed)
    return failed


def _undo(call: Callable[[], None], path: str, failed: list[str]) -> None:
    try:
        call()
    except OSError as error:
        failed.append(f"{path} ({error.strerror or error})")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _restore(home: Path, entry: dict[str, Any]) -> None:
    path = Path(entry["path"])
    if entry["what"] == "folder":
        if not path.is_dir() or path.is_symlink():
            _remove(path)
            path.mkdir()
        os.chmod(path, entry["mode"])
        return
    if entry["what"] == "link":
        if not path.is_symlink() or os.readlink(path) != entry["to"]:
            _remove(path)
            path.symlink_to(entry["to"])
            os.utime(path, ns=tuple(entry["times"]), follow_symlinks=False)
        return
    kept = home / KEPT / entry["copy"]
    same = path.is_file() and not path.is_symlink() and path.stat().st_mtime_ns == entry["times"][1]
    if not (same and path.stat().st_size == kept.stat().st_size):
        if path.is_symlink() or path.is_dir():
            _remove(path)
        with open(kept, "rb") as source, open(path, "wb") as copy:  # in place: others may have it open
            shutil.copyfileobj(source, copy, 1 << 20)
    os.chmod(path, entry["mode"])
    os.utime(path, ns=tuple(entry["times"]))
