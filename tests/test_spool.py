"""The spool: bodies in pieces become files of lines, within the room that there is."""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest

from service.images import DiskFull, DiskUnavailable
from service.spool import Kept, Lines, Spool, SpoolFull, SpoolMissing

JOB = "job_1"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def keep(spool: Spool, *data: bytes, job: str = JOB) -> Kept:
    return asyncio.run(spool.keep(job, pieces(*data)))


def read(spool: Spool, job: str = JOB) -> list[tuple[int, bytes | None]]:
    """All lines, chunk by chunk, each from where the one before it ended."""
    found: list[tuple[int, bytes | None]] = []
    with spool.lines(job) as lines:
        assert lines is not None
        start, line = 0, 0
        while (chunk := lines.chunk(start, line)).end > start:
            found += chunk.lines
            start, line = chunk.end, chunk.line
    return found


def small(folder: Path, max_bytes: int = 10**7, max_line_bytes: int = 100) -> Spool:
    limits = max_bytes, max_line_bytes
    return Spool(folder / "spool", *limits, lambda data: nullcontext(Lines(BytesIO(data), 100)))


def test_what_names_a_source_is_opened_as_one(tmp_path: Path) -> None:
    spool = small(tmp_path)
    asyncio.run(spool.keep(JOB, pieces(b"one\ntwo\n"), "source"))
    assert read(spool) == [(1, b"one\n"), (2, b"two\n")]  # its name is all there is of this source
    spool.remove(JOB)
    with pytest.raises(SpoolMissing):
        read(spool)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_are_counted_and_read_however_they_come(tmp_path: Path, size: int) -> None:
    body = b'\n{"a": 1}\n \t\r\n{"b": 2}\r\n' + b"x" * 101 + b"\n" + b" " * 300 + b"\n\n" + b"y" * 100
    spool = small(tmp_path)
    kept = keep(spool, *(body[i : i + size] for i in range(0, len(body), size)))
    assert kept == Kept(4, hashlib.sha256(body).hexdigest())
    assert read(spool) == [(2, b'{"a": 1}\n'), (4, b'{"b": 2}\r\n'), (5, None), (8, b"y" * 100)]


def test_a_body_of_nothing_has_no_lines(tmp_path: Path) -> None:
    assert keep(small(tmp_path)).total == 0
    assert read(small(tmp_path)) == []


def test_a_chunk_is_bounded_and_the_next_one_goes_on_behind_it(tmp_path: Path) -> None:
    spool = small(tmp_path)
    keep(spool, b"".join(b"%d\n" % i for i in range(1, 201)))
    with spool.lines(JOB) as lines:
        assert lines is not None
        first = lines.chunk(0, 0)
        assert len(first.lines) == 64 == first.line
        again = lines.chunk(first.end, first.line)
        assert again.lines[0] == (65, b"65\n")
    assert [int(line or b"") for _, line in read(spool)] == list(range(1, 201))


def test_a_file_is_read_by_one_at_a_time(tmp_path: Path) -> None:
    spool = small(tmp_path)
    keep(spool, b"x\n")
    with spool.lines(JOB) as ours:
        assert ours is not None
        with spool.lines(JOB) as theirs:
            assert theirs is None
    assert read(spool) == [(1, b"x\n")]


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    spool = small(tmp_path)
    keep(spool, b"x\n")
    spool.remove(JOB)
    spool.remove(JOB)
    with pytest.raises(SpoolMissing), spool.lines(JOB):
        pass


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "spool").glob("*"))


def test_bodies_beyond_the_room_for_all_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    spool = small(tmp_path, max_bytes=3_000_000)
    keep(spool, b"x" * 2_000_000)
    spool.check_room(1_000_000)
    with pytest.raises(SpoolFull):
        spool.check_room(1_000_001)
    with pytest.raises(SpoolFull):
        keep(spool, *[b"y" * 300_000] * 4, job="job_2")
    assert left(tmp_path) == ["job_1.ndjson"]
    keep(spool, b"y" * 1_000_000, job="job_2")


def test_a_client_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(small(tmp_path).keep(JOB, broken()))
    assert left(tmp_path) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, DiskUnavailable)])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename"])
def test_a_disk_that_fails_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], call: str
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(number, "the disk")

    monkeypatch.setattr(call, fails)
    with pytest.raises(kind, match="bulk jobs"):
        keep(small(tmp_path), b"x\n")
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(DiskUnavailable):
        keep(small(tmp_path), b"x\n")


def test_pruning_takes_what_no_job_needs(tmp_path: Path) -> None:
    spool = small(tmp_path)

    def age(names: Iterable[str]) -> None:
        for name in names:
            path = tmp_path / "spool" / name
            path.touch()
            os.utime(path, (time.time() - 7200,) * 2)

    keep(spool, b"x", job="job_4")
    age(["job_1.ndjson", "job_2.ndjson", "job_3.part"])
    assert spool.prune({"job_1", "job_3"}, 3600) == 2
    assert left(tmp_path) == ["job_1.ndjson", "job_4.ndjson"]
