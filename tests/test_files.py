"""Files that are flushed together."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from index import files
from index.files import fsync_all


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """More files than are flushed one by one, if their file system can flush all."""
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_bytes(b"x")
    return paths


def noted(monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> list[str]:
    """What is called to flush files of a file system that may be flushed whole, or may not."""
    calls: list[str] = []
    flush, flush_whole = os.fsync, files._syncfs

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        flush(descriptor)

    def syncfs(path: Path) -> None:
        calls.append("syncfs")
        flush_whole(path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(files, "_syncfs", syncfs)
    monkeypatch.setattr(files, "_is_flushed_whole", lambda device: whole)
    return calls


linux = pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="the system has no syncfs")


@linux
def test_many_files_are_flushed_by_one_call(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, whole=True)
    fsync_all(many)
    assert calls == ["syncfs"]


def test_few_files_are_flushed_by_themselves(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, whole=True)
    fsync_all(many[:3])
    fsync_all([])
    assert calls == ["fsync"] * 3


def test_each_is_flushed_where_one_call_may_not_do(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted(monkeypatch, whole=False)
    fsync_all(many)
    assert calls == ["fsync"] * 20


@linux
def test_what_the_disk_says_is_raised(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def __init__(self, *_: object, **__: object) -> None: ...

        @staticmethod
        def syncfs(descriptor: int) -> int:
            os.fstat(descriptor)  # open
            ctypes.set_errno(errno.ENOSPC)
            return -1

    monkeypatch.setattr(files, "_is_flushed_whole", lambda device: True)
    monkeypatch.setattr(ctypes, "CDLL", Libc)
    with pytest.raises(OSError, match="No space left") as raised:
        fsync_all(many)
    assert raised.value.errno == errno.ENOSPC


def test_only_known_file_systems_are_flushed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 35 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n"
        "37 36 0:44 / /data rw - fuse.sshfs host:/ rw\n"
        "38 36 8:2 /part /more rw master:2 propagate_from:3 - xfs /dev/sda2 rw\n"
    )
    monkeypatch.setattr(files, "_MOUNTS", mounts)
    ask = files._is_flushed_whole.__wrapped__
    assert [ask(os.makedev(*device)) for device in ((8, 1), (0, 44), (8, 2), (9, 9))] == [
        True,
        False,
        True,
        False,
    ]
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")
    assert not ask(os.makedev(8, 1))
