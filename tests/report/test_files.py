"""What is written where: whole or not at all, and nothing but a file is replaced."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from trimtab.report.files import write_whole


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path):
    file = tmp_path / "new" / "file"
    write_whole(file, b"one")
    assert file.read_bytes() == b"one"
    os.chmod(file, 0o640)
    before = file.stat().st_ino
    write_whole(file, b"two")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"two", 0o640)
    assert file.stat().st_ino != before
    assert [one.name for one in file.parent.iterdir()] == ["file"]


def test_links_stay_links(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("later")
    os.link(tmp_path / "real", tmp_path / "twin")
    write_whole(tmp_path / "link", b"new")
    write_whole(tmp_path / "dangling", b"new")
    assert {(tmp_path / name).read_bytes() for name in ("real", "twin", "link", "later")} == {b"new"}
    assert (tmp_path / "link").is_symlink() and (tmp_path / "dangling").is_symlink()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()


def test_what_is_no_file_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "null").symlink_to("/dev/null")
    write_whole(tmp_path / "pipe", b"through")
    write_whole(tmp_path / "null", b"away")
    assert os.read(reading, 100) == b"through"
    assert not (tmp_path / "pipe").is_file() and not (tmp_path / "null").is_file()
    os.close(reading)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"new")
    with pytest.raises(OSError, match="No space"):
        write_whole("/dev/full", b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with open(tmp_path / "out", "wb") as out:  # as standard output that goes to a file
        out.write(b"said before ")
        out.flush()
        write_whole(f"/dev/fd/{out.fileno()}", b"the result")
    assert (tmp_path / "out").read_bytes() == b"said before the result"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_permissions_hold():
    with tempfile.TemporaryDirectory() as folder:
        others, kept = Path(folder, "others"), Path(folder, "kept")
        for file, mode in ((others, 0o666), (kept, 0o644), (Path(folder), 0o755)):
            if file != Path(folder):
                file.write_bytes(b"old")
            os.chmod(file, mode)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                write_whole(kept, b"new")
            write_whole(others, b"new")  # its folder is not to be written, it is
        finally:
            os.seteuid(0)
        assert (others.read_bytes(), kept.read_bytes()) == (b"new", b"old")
