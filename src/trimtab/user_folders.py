"""Where trimtab keeps small things of its user: what can be made again, and which store was used last.

Both folders are those of the XDG base directory specification. Nothing here is needed: whatever cannot be read or written is
done without, in silence.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: ``$XDG_CACHE_HOME/trimtab``, ``~/.cache/trimtab`` by default."""
    return _folder("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """What is remembered from one command to the next: ``$XDG_STATE_HOME/trimtab``, ``~/.local/state/trimtab`` by default."""
    return _folder("XDG_STATE_HOME", ".local/state")


def _folder(variable: str, usual: str) -> Path:
    given = os.environ.get(variable, "")
    if os.path.isabs(given):  # others are to be ignored, says the specification
        return Path(given) / "trimtab"
    return Path(os.path.expanduser("~")) / usual / "trimtab"


def keep(file: Path, text: str, others: str = "") -> None:
    """Write a small file whole or not at all; ``others`` is a pattern of files beside it that it takes the place of."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as new:
            new.write(text)
        try:
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise
        for other in file.parent.glob(others) if others else ():
            if other != file:
                other.unlink(missing_ok=True)
    except (OSError, ValueError):
        pass


def remember_store(folder: Path) -> None:
    """The store that ``trimtab report`` shows where the current folder has none."""
    keep(state_folder() / "last", f"{folder.resolve()}\n")


def last_store() -> Path | None:
    """The store that was used last, if it is still there."""
    try:
        said = (state_folder() / "last").read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
        return Path(said) if said and Path(said).is_dir() else None
    except (OSError, ValueError):
        return None
