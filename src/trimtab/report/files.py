"""Writing a file so that nobody sees half of it, and nothing but a file is replaced."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: str | Path, data: bytes) -> None:
    """Write the data there, all at once; folders on the way are made.

    A link stays one: the file that it leads to is written. What is no regular file, such as ``/dev/null`` or a pipe, is written
    into and never replaced.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as there:
            there.write(data)
        return
    whole = Path(os.path.realpath(path))
    whole.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=whole.parent, prefix=f".{whole.name[:50]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is its owner's alone
        os.replace(temporary, whole)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
