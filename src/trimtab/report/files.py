"""Writing a file so that nobody sees half of it, and nothing but a file is replaced."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def write_whole(path: str | Path, data: bytes) -> None:
    """Write the data there, all at once; folders on the way are made.

    A link stays one: the file that it leads to is written, and keeps its permissions. What is no regular file, such as ``/dev/null`` or a
    pipe, is written into and never replaced; so is a file that has several names, or that its folder does not let go.

    Raises:
        OSError: if it cannot be written, because of its permissions too.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        _replace(Path(os.path.realpath(path)), data, 0o666 & ~umask)
        return
    whole = Path(os.path.realpath(path))
    is_open = os.path.abspath(path).startswith(
        ("/dev/std", "/dev/fd/", "/proc/")
    )  # others may write into that file too
    if is_open or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        with open(path, "ab" if is_open else "wb") as there:
            there.write(data)
        return
    if not os.access(whole, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        _replace(whole, data, stat.S_IMODE(found.st_mode))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EROFS):
            raise
        whole.write_bytes(data)  # its folder may not be written, or it is one that a container was given


def _replace(whole: Path, data: bytes, mode: int) -> None:
    whole.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=whole.parent, prefix=f".{whole.name[:50]}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(whole)) from None  # which is what one knows
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, mode)  # mkstemp's file is its owner's alone
        os.replace(temporary, whole)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
