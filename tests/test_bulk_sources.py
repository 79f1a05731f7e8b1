"""Files as sources of bulk jobs: read whole from wherever a job stands, and no file that is not offered."""

import asyncio
import base64
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.bulk_lines import (
    SourceUnreadable,
)
from service.bulk_sources import (
    SourceChanged,
    SourceNotFound,
    Sources,
    SourcesDisabled,
)
from service.compose import running
from service.config import Settings
from service.metrics import Metrics
from service.schemas_jobs import SourceFormat
from service.spool import CHUNK_LINES
from tests.fakes import FakeEncoder, square
from tests.problems import assert_problem

COUNT = 2 * CHUNK_LINES + 7
RED = square("red")
Writer = Callable[[Path], None]


def item(number: int) -> dict[str, Any]:
    """What each format holds at this place."""
    image = {"image": base64.b64encode(RED).decode()} if number % 3 == 0 else {}
    return {"id": f"a/{number}", "text": f"word{number}", "metadata": {"n": number}, **image}


def write_ndjson(path: Path) -> None:
    path.write_text("".join(json.dumps({"item": item(number)}) + "\n" for number in range(COUNT)))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(COUNT):
            wanted = item(number)
            parts = {"txt": wanted["text"].encode(), "json": json.dumps(wanted["metadata"]).encode()}
            if "image" in wanted:
                parts["png"] = RED
            for ending, data in parts.items():
                add(tar, f"{wanted['id']}.{ending}", data)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_parquet(path: Path) -> None:
    items = [item(number) for number in range(COUNT)]
    pictures = [base64.b64decode(wanted["image"]) if "image" in wanted else None for wanted in items]
    columns = {name: [wanted[name] for wanted in items] for name in ("id", "text")}
    table = pa.table({**columns, "image": pictures, "n": list(range(COUNT))})
    pq.write_table(table, path, row_group_size=50)


WRITERS: dict[SourceFormat, Writer] = {
    "ndjson": write_ndjson,
    "webdataset": write_tar,
    "parquet": write_parquet,
}


def read(sources: Sources, uri: str, format: SourceFormat) -> list[Any]:
    """The items of all chunks, each read by a reader of its own that begins where the one before ended."""
    source, total = sources.find(uri, format)
    found: list[Any] = []
    start = line = 0
    while True:
        with sources.reading(source) as records:
            chunk = records.chunk(start, line)
        if chunk.end == start:
            assert len(found) == total
            return found
        assert [number for number, _ in chunk.lines] == list(range(line + 1, chunk.line + 1))
        found += [None if data is None else json.loads(data)["item"] for _, data in chunk.lines]
        start, line = chunk.end, chunk.line


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_holds_the_same_items_wherever_reading_begins(
    tmp_path: Path, format: SourceFormat
) -> None:
    WRITERS[format](tmp_path / "file")
    sources = Sources(tmp_path, 10**6, tmp_path)
    assert read(sources, "file", format) == [item(number) for number in range(COUNT)]


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_file_of_another_format_is_told(tmp_path: Path, format: SourceFormat) -> None:
    (tmp_path / "file").write_bytes(b"neither of them" * 100)
    with pytest.raises(SourceUnreadable):
        Sources(tmp_path, 10**6, tmp_path).find("file", format)


@pytest.mark.parametrize(("kept", "then"), [(10_240, b""), (10_000, b""), (10_240, b"x" * 5120)])
def test_a_damaged_tar_is_not_taken_for_a_short_one(tmp_path: Path, kept: int, then: bytes) -> None:
    write_tar(tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:kept] + then)
    with pytest.raises(SourceUnreadable):
        Sources(tmp_path, 10**6, tmp_path).find("file", "webdataset")


def test_a_sample_that_is_too_large_or_broken_fails_alone(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "file", "w") as tar:
        add(tar, "large.txt", b"x" * 2000)
        add(tar, "broken.json", b"{")
        add(tar, "broken.txt", b"red")
        add(tar, "good.txt", b"red")
        add(tar, "good.cls", b"7")
    assert read(Sources(tmp_path, 1000, tmp_path), "file", "webdataset") == [
        None,
        {"id": "broken", "text": "red", "metadata": "{"},  # no metadata: the line is refused
        {"id": "good", "text": "red"},
    ]


def test_columns_become_metadata_beside_what_is_given_as_such(tmp_path: Path) -> None:
    row = {"id": 7, "text": "red", "image": {"bytes": RED, "path": "x"}, "price": 2.5, "none": None}
    pq.write_table(pa.Table.from_pylist([{**row, "metadata": '{"price": 3, "tags": ["a"]}'}]), tmp_path / "f")
    (found,) = read(Sources(tmp_path, 10**6, tmp_path), "f", "parquet")
    assert base64.b64decode(found.pop("image")) == RED
    assert found == {"id": "7", "text": "red", "metadata": {"price": 3, "tags": ["a"]}}


def test_a_list_of_urls_is_one_of_items_that_are_called_by_them(tmp_path: Path) -> None:
    urls = [f"https://images.example/{number}.jpg" for number in range(COUNT)]
    (tmp_path / "f").write_text("\r\n".join(urls))
    expected = [{"id": url, "image": {"url": url}} for url in urls]
    assert read(Sources(tmp_path, 1000, tmp_path), "f", "url_list") == expected


@pytest.mark.parametrize("uri", ["../secret", "/etc/passwd", "link", "missing", ".", "a\0b", "x" * 5000])
def test_no_file_beyond_the_folder_is_opened(tmp_path: Path, uri: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    (tmp_path / "secret").write_text("{}")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceNotFound):
        Sources(folder, 1000, tmp_path).find(uri, "ndjson")


def test_without_a_folder_no_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(SourcesDisabled):
        Sources(None, 1000, tmp_path).find(str(tmp_path), "ndjson")


def test_a_file_that_has_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "file")
    sources = Sources(tmp_path, 1000, tmp_path)
    source, _ = sources.find("file", "ndjson")
    os.utime(tmp_path / "file", ns=(1, 1))
    with pytest.raises(SourceChanged), sources.reading(source):
        pass


def test_a_file_of_another_user_or_machine_is_left_to_them(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ndjson(tmp_path / "file")

    async def run() -> None:
        async with running(settings, Metrics(), cast(Any, FakeEncoder())) as service:
            await service.retriever.create_collection("c")
            job, _ = await service.desk.submit_path("c", tmp_path / "file", "ndjson", None, "me", "key")
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr("service.bulk_sources.reader", lambda: "0@elsewhere")
                assert not await service.runner.step()
            assert (await service.desk.job(job.id, None)).state == "queued"
            assert not await service.runner.step({"job_another"})
            assert await service.runner.step({job.id})
            assert (await service.desk.job(job.id, None)).done == COUNT

    asyncio.run(run())


def test_a_job_of_another_machine_ends_with_its_collection(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ndjson(tmp_path / "file")

    async def run() -> None:
        async with running(settings, Metrics(), cast(Any, FakeEncoder())) as service:
            await service.retriever.create_collection("c")
            job, _ = await service.desk.submit_path("c", tmp_path / "file", "ndjson", None, "me", "key")
            monkeypatch.setattr("service.bulk_sources.reader", lambda: "0@elsewhere")
            service.catalog.delete_collection("c")
            await service.runner.step()
            assert (await service.desk.job(job.id, None)).state == "failed"

    asyncio.run(run())


def test_a_file_that_cannot_be_looked_at_fails_its_job_and_no_other(
    tmp_path: Path, settings: Settings
) -> None:
    for name in ("file", "other"):
        write_ndjson(tmp_path / name)

    async def run() -> None:
        async with running(settings, Metrics(), cast(Any, FakeEncoder())) as service:
            await service.retriever.create_collection("c")
            job, _ = await service.desk.submit_path("c", tmp_path / "file", "ndjson", None, "me", "key")
            other, _ = await service.desk.submit_path("c", tmp_path / "other", "ndjson", None, "me", "other")
            (tmp_path / "file").unlink()
            (tmp_path / "file").symlink_to(tmp_path / ("x" * 300))  # no name that a file can have
            while await service.runner.step():
                pass
            assert (await service.desk.job(job.id, None)).state == "failed"
            assert (await service.desk.job(other.id, None)).state == "succeeded"

    asyncio.run(run())


# -- through the API


@pytest.mark.parametrize("format", ["items", "pictures"])
def test_no_request_names_files_as_the_command_line_does(client: TestClient, format: str) -> None:
    body = {"source": {"uri": "x", "format": format}}
    reply = client.post("/v1/collections/c/bulk", json=body, headers={"Idempotency-Key": "k"})
    assert_problem(reply, 422, "invalid_request")


def finished(client: TestClient, reply: Any) -> Any:
    """The job once it has ended."""
    assert reply.status_code == 202, reply.text
    while (job := client.get(reply.headers["location"]).json())["state"] in ("queued", "running"):
        pass
    return job


def test_a_job_on_a_file_is_done_once_under_its_key(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    write_tar(folder / "nightly.tar")
    settings = Settings(
        data_dir=tmp_path / "data", worker=False, bulk_source_root=str(folder), allowed_hosts="*"
    )
    bulk = "/v1/collections/c/bulk"
    body = {"source": {"uri": "nightly.tar", "format": "webdataset"}}
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as client:
        client.put("/v1/collections/c")
        assert_problem(client.post(bulk, json=body), 422, "invalid_request")
        key = {"Idempotency-Key": "tonight"}
        reply = client.post(bulk, json=body, headers=key)
        job = finished(client, reply)
        assert (job["state"], job["counts"]["done"]) == ("succeeded", COUNT)
        assert client.get("/v1/collections/c/items/a/3").json()["modality"] == "mixed"
        again = client.post(bulk, json=body, headers=key)
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (job["id"], "true")
        other = {"source": {**body["source"], "uri": "other.tar"}}
        assert_problem(client.post(bulk, json=other, headers=key), 404, "source_not_found")
        assert_problem(
            client.post(bulk, json={"source": {"uri": "nightly.tar", "format": "csv"}}, headers=key),
            422,
            "invalid_request",
        )


def test_a_server_without_a_folder_of_sources_says_so(client: TestClient) -> None:
    body = {"source": {"uri": "x", "format": "ndjson"}}
    reply = client.post("/v1/collections/c/bulk", json=body, headers={"Idempotency-Key": "k"})
    assert_problem(reply, 422, "sources_disabled")
