"""``momoseek snapshot``: an archive made here is served there at once; mistakes are told in one line."""

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from service import cli
from service.app import create_app
from service.config import Settings
from service.stores import open_bundle, open_catalog, open_rebuilder
from tests.fakes import COLOUR_NAMES, FakeEncoder, square

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def source(settings: Settings, client: TestClient) -> Settings:
    """The settings of an API that runs: a picture of each colour, an index of them, and a text after it."""
    pictures = [
        {"id": colour, "image": {"base64": base64.b64encode(square(colour)).decode()}}
        for colour in COLOUR_NAMES
    ]
    assert client.put("/v1/collections/c/items", json={"items": pictures}).status_code == 200
    catalog = open_catalog(settings)
    assert open_rebuilder(settings, catalog).rebuild("c", "test", 0.0).published
    catalog.close()
    words = [{"id": "words", "text": "some words"}]
    assert client.put("/v1/collections/c/items", json={"items": words}).status_code == 200
    return settings


def snapshot(*arguments: object, data_dir: Path) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as exit:
        cli.main(["snapshot", *map(str, arguments), "--data-dir", str(data_dir)])
    return int(exit.value.code or 0)


def replies(client: TestClient) -> list[Any]:
    """What searches by word find, and a picture."""
    queries = [{"query": colour, "limit": 6} for colour in COLOUR_NAMES]
    found = [client.post("/v1/collections/c/search", json=query).json() for query in queries]
    kept = [(reply["results"], reply["index"]["generation"]) for reply in found]
    return [*kept, client.get("/v1/collections/c/images/red").content]


def test_what_was_made_beside_a_running_api_is_served_elsewhere(
    source: Settings, client: TestClient, tmp_path: Path, capsys: Capture
) -> None:
    assert snapshot("create", data_dir=source.data_dir) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == source.data_dir / "backups"
    other = tmp_path / "other"
    assert snapshot("restore", path, "--any-encoder", data_dir=other) == 0
    assert "c: 6 items, the log up to 6" in capsys.readouterr().err
    moved = source.model_copy(update={"data_dir": other})
    with TestClient(create_app(moved, cast(Any, FakeEncoder()))) as api:
        assert replies(api) == replies(client)
        assert replies(api)[0][1] == 1
        assert replies(api)[-1] == square("red")


def test_a_list_tells_what_archives_hold_and_which_are_damaged(
    source: Settings, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a", "b"):
        assert snapshot("create", tmp_path / f"{name}.tar", data_dir=source.data_dir) == 0
    capsys.readouterr()
    assert snapshot("list", tmp_path, "--verify", "--json", data_dir=source.data_dir) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["path"] == str(tmp_path / "a.tar")
    assert (first["items"], first["pictures"], first["state"]) == (6, 5, "verified")
    assert first["encoder_ids"] == [FakeEncoder().id]
    assert second["created_at"] > first["created_at"]

    content = bytearray((tmp_path / "b.tar").read_bytes())
    content[content.index(b"\x89PNG") + 20] ^= 1
    (tmp_path / "b.tar").write_bytes(content)
    assert snapshot("list", tmp_path, data_dir=source.data_dir) == 0  # what was not read is not judged
    assert capsys.readouterr().out.count("complete") == 2
    assert snapshot("list", tmp_path, "--verify", data_dir=source.data_dir) == 1
    assert "blobs/" in capsys.readouterr().out
    (tmp_path / "b.tar").write_bytes(content[:-2000])
    assert snapshot("list", tmp_path, data_dir=source.data_dir) == 1
    assert "SHA256SUMS" in capsys.readouterr().out
    assert snapshot("restore", tmp_path / "b.tar", "--any-encoder", data_dir=tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()


def test_restoring_refuses_another_encoder_and_a_target_in_use(
    source: Settings, tmp_path: Path, capsys: Capture
) -> None:
    path, target = tmp_path / "a.tar", tmp_path / "target"
    assert snapshot("create", path, data_dir=source.data_dir) == 0
    assert snapshot("restore", path, data_dir=target) == 2
    assert f"not of {open_bundle(source).encoder_id}" in capsys.readouterr().err
    assert not target.exists()
    assert snapshot("restore", path, "--any-encoder", data_dir=target) == 0
    assert snapshot("restore", path, "--any-encoder", data_dir=target) == 2
    assert "already holds 1 collections; --force replaces them" in capsys.readouterr().err
    assert snapshot("restore", path, "--any-encoder", "--force", data_dir=target) == 0


def test_mistakes_are_told_in_one_line_and_leave_nothing(
    source: Settings, tmp_path: Path, capsys: Capture
) -> None:
    assert snapshot("create", data_dir=tmp_path / "typo") == 2
    assert "there is no catalog" in capsys.readouterr().err
    assert snapshot("restore", tmp_path / "none.tar", data_dir=tmp_path / "typo") == 2
    assert "none.tar" in capsys.readouterr().err
    assert snapshot("list", tmp_path / "nowhere", data_dir=tmp_path / "typo") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    for status in (0, 2):
        assert snapshot("create", tmp_path / "a.tar", data_dir=source.data_dir) == status
    assert "exists already" in capsys.readouterr().err
    assert snapshot("list", data_dir=source.data_dir) == 0


def test_one_collection_is_restored_beside_a_running_api(
    source: Settings, client: TestClient, tmp_path: Path, capsys: Capture
) -> None:
    before = replies(client)
    assert snapshot("create", "--collection", "c", data_dir=source.data_dir) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == source.data_dir / "backups/collections/c"
    assert snapshot("create", tmp_path / "whole.tar", data_dir=source.data_dir) == 0
    assert snapshot("create", "--collection", "none", data_dir=source.data_dir) == 2
    capsys.readouterr()
    assert snapshot("list", "--json", data_dir=source.data_dir) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["collection"], entry["items"], entry["path"]) == ("c", 6, str(path))

    one = ("--any-encoder", "--collection", "c")
    assert snapshot("restore", path, "--any-encoder", data_dir=tmp_path / "new") == 2
    assert "is of one collection" in capsys.readouterr().err
    assert snapshot("restore", path, *one, data_dir=source.data_dir) == 2
    assert "there is a collection 'c'; --force replaces" in capsys.readouterr().err
    assert snapshot("restore", path, "--any-encoder", "--as", "d", data_dir=source.data_dir) == 2
    assert snapshot("restore", path, *one, "--as", "a b", data_dir=source.data_dir) == 2
    assert snapshot("restore", path, "--collection", "c", data_dir=source.data_dir) == 2
    assert f"not of {open_bundle(source).encoder_id}" in capsys.readouterr().err
    for archive, name in ((path, "d"), (tmp_path / "whole.tar", "e")):
        assert snapshot("restore", archive, *one, "--as", name, data_dir=source.data_dir) == 0
        assert f"{name}: 6 items, the log up to 6" in capsys.readouterr().err
        found = client.post(f"/v1/collections/{name}/search", json={"query": "red"}).json()["results"]
        assert [(hit["id"], hit["score"]) for hit in found] == [
            (hit["id"], hit["score"]) for hit in before[0][0]
        ]
    client.delete("/v1/collections/c/items/red")
    assert snapshot("restore", path, *one, "--force", data_dir=source.data_dir) == 0
    assert [kept[0] for kept in replies(client)[:-1]] == [kept[0] for kept in before[:-1]]
