"""A view of folders that only this process has, by the mount namespaces of Linux.

An overlay is mounted over each folder's own path: what is read falls through to the folder, what is written stays aside. So absolute
paths are covered too, nothing is copied before it is changed, and no privilege is needed (Linux 5.11 and later) where the system lets
users make namespaces. As a script of its own, ``python overlay.py EMPTY FOLDER...`` tries it and says why it does not work.

This file imports nothing but the standard library: it is tried in a bare process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE, _BIND = 1 << 18, 1 << 14, 1 << 12
_DUMPABLE, _CAPABILITIES_3 = 4, 0x20080522


def mount_over(roots: Sequence[Path], home: Path, hide: Sequence[Path]) -> list[int]:
    """Give this process, which must have one thread only, a view of its own of some folders; the folders below it, open, by root.

    Args:
        roots: the folders, none inside of another.
        home: an empty folder for what is written; its ``0``, ``1`` ... are the changes of each.
        hide: folders that shall be seen empty.

    Raises:
        OSError: if the system does not allow it; then nothing was changed.
    """
    here = os.getcwd()
    own_user = _new_namespace()
    _mount(None, "/", None, _PRIVATE | _RECURSIVE)
    # Opened in the new namespace: what was opened before belongs to the old one. Through these an upper folder can be inside of its root.
    mounts = [(path, os.open(path, os.O_PATH)) for path in _with_mounts_inside(roots)]
    aside = os.open(home, os.O_PATH)
    try:
        for number, (path, folder) in enumerate(mounts):
            _overlay(path, folder, f"/proc/self/fd/{aside}", number, own_user, needed=path in roots)
        for path in hide:
            if path.is_dir():
                _mount("tmpfs", str(path), "tmpfs", 0)
    finally:
        for path, folder in mounts:
            if path not in roots:
                os.close(folder)
        os.close(aside)
    os.chdir(here)  # into the view: until now it was the folder below
    if own_user:
        _drop_capabilities()
    return [folder for path, folder in mounts if path in roots]


def _with_mounts_inside(roots: Sequence[Path]) -> list[Path]:
    """The folders, and what is mounted inside of them: an overlay does not look through to that."""
    found = list(roots)
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[1] for line in file]
    for point in points:
        path = Path(point.encode("latin-1", "backslashreplace").decode("unicode_escape"))  # \040 is a space
        if any(root != path and root in path.parents for root in roots) and path not in found and path.is_dir():
            found.append(path)
    return found


def _new_namespace() -> bool:
    """Leave the mounts of everybody else; whether that took a user namespace."""
    try:
        _call("unshare", _NEW_MOUNTS)
        return False
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _NEW_USER | _NEW_MOUNTS)
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _overlay(path: Path, folder: int, aside: str, number: int, own_user: bool, needed: bool) -> None:
    """Mount an overlay of a folder, which is open, over its own path."""
    options = ",userxattr" if own_user else ",redirect_dir=on"
    below = f"lowerdir=/proc/self/fd/{folder}"
    try:
        try:
            _mount("overlay", str(path), "overlay", 0, f"{below},{_upper(aside, number)}{options}")
        except OSError:  # a file system that cannot be the upper one: networks, and overlays themselves
            memory = tempfile.mkdtemp(prefix="trimtab-")
            _mount("tmpfs", memory, "tmpfs", 0)
            _mount("overlay", str(path), "overlay", 0, f"{below},{_upper(memory, number)}{options}")
    except OSError:
        if needed:
            raise
        _mount(f"/proc/self/fd/{folder}", str(path), None, _BIND | _RECURSIVE)  # at least to be seen


def _upper(aside: str, number: int) -> str:
    changes, work = f"{aside}/{number}", f"{aside}/work{number}"
    for folder in (changes, work):
        os.makedirs(folder, exist_ok=True)
    return f"upperdir={changes},workdir={work}"


def _drop_capabilities() -> None:
    """Be an ordinary user again: who makes a user namespace may do anything in it, also write what is read-only."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    _call("prctl", _DUMPABLE, 1, 0, 0, 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    _call("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3], what=f"mount {target}")


def _call(name: str, *arguments: object, what: str = "") -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what or name}: {os.strerror(number)}")


def main(folders: Sequence[str]) -> str:
    """Try it, with an empty folder for changes and the folders to see; why it does not work, or nothing."""
    try:
        home, *roots = map(Path, folders)
        mount_over(roots, home, [])
        for root in roots:
            probe = root / ".trimtab-probe"
            probe.write_text("")  # only here
            probe.unlink()
    except (OSError, AttributeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
