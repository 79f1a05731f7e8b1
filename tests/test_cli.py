"""The command line, in process and as a newcomer types it."""

import base64
import json
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from index.adapters import Learned
from index.aliases import PutAlias
from index.jobs import new_id
from models.query_adapter import QueryAdapter
from service import cli
from service.bulk_sources import Sources
from service.config import Settings
from service.sources import SourceError, wanted
from service.stores import open_catalog
from service.supervisor import own_command
from tests.conftest import ROOT, clean_environment
from tests.fakes import square
from tests.joint_bundle import build


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them below, a broken one, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.png").write_bytes(square("red"))
    (folder / "sub" / "two.JPG").write_bytes(square("blue", format="JPEG"))
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "notes.txt").write_text("no picture")
    return folder


def momoseek(*arguments: object, data_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=clean_environment()
    )


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def listed(*paths: Path) -> list[str]:
    """The ids of the pictures that these paths ask for."""
    return [json.loads(line)["id"] for one in wanted(list(paths), None) for line in one.listed()]


def test_index_search_and_audit_work_without_a_server(pictures: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    indexed = momoseek("index", pictures, data_dir=data_dir)
    assert indexed.returncode == 1, indexed.stderr
    assert "broken.png" in indexed.stderr
    assert "2 written, 1 failed" in indexed.stderr
    again = momoseek(
        "index", pictures / "one.png", pictures / "sub", "--collection", "default", data_dir=data_dir
    )
    assert "1 written, 1 unchanged" in again.stderr

    found = momoseek("search", "--image", pictures / "one.png", "--json", "--limit", 1, data_dir=data_dir)
    reply = json.loads(found.stdout)
    assert [hit["id"] for hit in reply["results"]] == ["one.png"]
    assert reply["results"][0]["score"] > 0.999
    assert reply["index"]["generation"] == 2
    table = momoseek("search", "a red square", data_dir=data_dir)
    assert "sub/two.JPG" in table.stdout

    audit = momoseek("audit", "--json", data_dir=data_dir)
    assert audit.returncode == 0
    (report,) = json.loads(audit.stdout)
    assert report["equal"] is True
    assert report["items"] == report["searchable"] == 3


def test_an_index_by_an_alias_takes_up_what_has_changed(tmp_path: Path) -> None:
    items, data_dir = tmp_path / "items.jsonl", tmp_path / "data"
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        lines(items, {"id": "a", "text": "red"})
        momoseek("index", items, "--collection", "own", data_dir=data_dir)
        catalog.aliases.apply([PutAlias("alias", "own")])
        named = ("index", tmp_path / "pictures", "--collection", "alias")
        (tmp_path / "pictures").mkdir()
        for number, colour in enumerate(("red", "blue", "green")):
            (tmp_path / "pictures" / "one.png").write_bytes(square(colour))
            (tmp_path / "pictures" / f"{colour}.png").write_bytes(square(colour))
            done = momoseek(*named, data_dir=data_dir)
            assert done.returncode == 0, done.stderr
            assert "2 written" in done.stderr
            assert catalog.count(catalog.collection("own")) == 3 + number


def test_a_strange_picture_fails_alone(tmp_path: Path) -> None:
    items = lines(tmp_path / "items.jsonl", {"id": "a", "text": "red"}, {"id": "b", "image": "A" * 300})
    done = momoseek("index", items, data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert "1 written, 1 failed" in done.stderr, done.stderr


def test_words_and_pictures_are_one_query_when_results_are_reranked(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    bundle = ("--bundle", build(tmp_path / "bundle").path)
    momoseek("index", pictures, *bundle, data_dir=tmp_path)
    picture = ("--image", pictures / "one.png")
    found = momoseek("search", "red", *picture, "--rerank", 2, "--json", *bundle, data_dir=tmp_path)
    scores = [hit["rerank_score"] for hit in json.loads(found.stdout)["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


def test_collections_are_moved_to_another_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    data_dir, bundle = tmp_path / "data", f"--bundle={build(tmp_path / 'bundle').path}"
    items = lines(tmp_path / "items.jsonl", *({"id": word, "text": word} for word in ("red", "boat", "cat")))
    for name in ("one", "two"):
        momoseek("index", items, "--collection", name, data_dir=data_dir)
    refused = momoseek("search", "boat", "--collection", "one", bundle, data_dir=data_dir)
    assert "holds embeddings of momo-mini" in refused.stderr
    assert momoseek("reembed", data_dir=data_dir).returncode == 2
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        two = catalog.collection("two")
        learning = catalog.tasks.create(new_id(), "adapt", two.uid, two.name, {}, 1).id
    moved = momoseek("reembed", "one", bundle, data_dir=data_dir)
    assert moved.returncode == 0, moved.stderr
    assert "one: 3 embedded" in moved.stderr
    found = momoseek("search", "boat", "--collection", "one", "--json", bundle, data_dir=data_dir)
    reply = json.loads(found.stdout)
    assert reply["results"][0]["id"] == "boat"
    assert reply["index"]["generation"] == 2  # that was built before it moved
    every = momoseek("reembed", "--all", bundle, data_dir=data_dir)
    assert "one: nothing to do" in every.stderr
    assert "two: 3 embedded before" in every.stderr  # as in "one"
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        assert catalog.jobs.get(learning).state == "queued"  # a server's to do
    back = momoseek("reembed", "--all", data_dir=data_dir)
    assert back.stderr.count("3 embedded before") == 2
    assert momoseek("audit", data_dir=data_dir).returncode == 0


def test_a_search_is_adapted_as_that_of_a_server_is(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    momoseek("index", lines(tmp_path / "items.jsonl", {"id": "a", "text": "red"}), data_dir=data_dir)
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        found = catalog.collection("default")
        learned = Learned(QueryAdapter.neutral(found.dim).to_bytes(), {}, {"accepted": True})
        adapter = catalog.adapters.add(found.uid, None, found.encoder_id, learned).id
        catalog.adapters.promote(adapter)
    reply = momoseek("search", "red", "--json", data_dir=data_dir)
    assert json.loads(reply.stdout)["adapter"] == adapter


def test_audit_names_the_damage_and_exits_with_one(pictures: Path, tmp_path: Path) -> None:
    momoseek("index", pictures, data_dir=tmp_path)
    (ids,) = tmp_path.glob("snapshots/default/*/000001/ids.npy")
    ids.write_bytes(ids.read_bytes()[:-1] + b"\x07")
    audit = momoseek("audit", data_dir=tmp_path)
    assert audit.returncode == 1
    assert "not equal" in audit.stdout
    assert "ids.npy" in audit.stdout


def test_eval_prints_exactly_the_agreed_shape(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(square(colour, side=64))
    lines(
        tmp_path / "pairs.jsonl",
        {"image": "red.png", "captions": ["a red square", "red"], "split": "test"},
        {"image": "blue.png", "captions": ["a blue square"], "split": "train"},
    )
    result = json.loads(momoseek("eval", "--pairs", tmp_path, "--json").stdout)
    assert set(result) == {"t2i", "i2t", "images", "captions", "encoder_id"}
    assert set(result["t2i"]) == set(result["i2t"]) == {"R@1", "R@5", "R@10"}
    assert (result["images"], result["captions"]) == (2, 3)
    assert result["t2i"]["R@5"] == result["i2t"]["R@5"] == 100
    part = json.loads(momoseek("eval", "--pairs", tmp_path, "--split", "test", "--json").stdout)
    assert (part["images"], part["captions"]) == (1, 2)


def test_bundle_info_checks_and_shows_the_bundle() -> None:
    about = json.loads(momoseek("bundle", "info", "--json").stdout)
    assert about["encoder_id"].startswith(about["name"])
    assert about["dim"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search",), "give words"),
        (("search", "x", "--collection", "none"), "no collection 'none'"),
        (("index", "/does/not/exist"), "no such file or folder"),
        (("index", ".", "--collection", "not a name"), "cannot be a collection's name"),
        (("eval", "--pairs", "/does/not/exist"), "/does/not/exist"),
        (("bundle", "info", "/does/not/exist"), "/does/not/exist"),
        (("audit", "--collection", "none"), "no collection 'none'"),
        (("search", "x", "--max-batch", "many"), "--max-batch=many"),
        (("search", "x", "--limit", "0"), "a number from 1 to 1000"),
        (("search", "--image", "/does/not/exist.png"), "/does/not/exist.png"),
        (("serve", "--port", "0", "--catalog-url", "nonsense"), "address cannot be used"),
        (("serve", "--port", "0", "--bundle", "/does/not/exist"), "/does/not/exist"),
        (("serve", "--port", "0", "--device", "cuda"), "cuda"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    momoseek("index", empty_folder(tmp_path), data_dir=tmp_path)
    failed = momoseek(*arguments, data_dir=tmp_path)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize("arguments", [("audit",), ("search", "x")])
def test_a_mistyped_folder_is_no_catalog_in_order(arguments: tuple[str, ...], tmp_path: Path) -> None:
    failed = momoseek(*arguments, data_dir=tmp_path / "typo")
    assert failed.returncode == 2
    assert "there is no catalog" in failed.stderr
    assert not (tmp_path / "typo").exists()


def test_a_data_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = momoseek("serve", "--port", "0", data_dir=tmp_path / "file")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr


def test_packages_of_the_working_directory_are_not_ours(tmp_path: Path) -> None:
    for name in ("index", "models", "service"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    command = [*own_command(), "--version"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.stdout.startswith("momoseek "), shown.stderr


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    from service.config import Settings, flag_of

    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    shown = capsys.readouterr().out
    assert all(flag_of(name) in shown for name in Settings.model_fields)


def test_a_folder_gives_its_pictures_by_relative_path(pictures: Path) -> None:
    assert listed(pictures) == ["broken.png", "one.png", "sub/two.JPG"]
    assert listed(pictures / "sub", pictures / "one.png") == ["two.JPG", "one.png"]


def test_lines_may_name_files_beside_them_or_hold_base64_or_captions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(square("red"))
    path = lines(
        tmp_path / "items.jsonl",
        {"id": "by file", "image": "a.png", "metadata": {"n": 1}},
        {"image": "a.png", "captions": ["a thing", "red"], "license": "CC0-1.0", "extra": 1},
        {"id": "text", "text": "words"},
        {"id": "captions", "image": "a.png", "captions": 5},
    )
    path.write_text(path.read_text() + "\n{broken\n")
    sources = Sources(None, 1_000_000, tmp_path)
    source, total = sources.here(path, "items")
    with sources.reading(source) as records:
        chunk = records.chunk(0, 0)
    assert total == len(chunk.lines) == 5
    found = [json.loads(line)["item"] for _, line in chunk.lines if line is not None]
    red = base64.b64encode(square("red")).decode()
    assert found == [
        {"id": "by file", "image": red, "metadata": {"n": 1}},
        {
            "id": "a.png",
            "image": red,
            "text": "a thing. red",
            "metadata": {"title": "a thing", "license": "CC0-1.0"},
        },
        {"id": "text", "text": "words"},
    ]
    assert [(line, unread.custom_id) for line, unread in chunk.unread.items()] == [(4, "captions"), (6, None)]


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        wanted([tmp_path / "none"], None)


def test_a_file_that_is_neither_text_nor_named_as_something_known_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.tar.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(SourceError, match=r"shop\.tar\.gz: neither a picture nor lines of JSON"):
        wanted([tmp_path / "shop.tar.gz"], None)
    (tmp_path / "rows.npy").write_bytes(b"")
    with pytest.raises(SourceError, match="--embedding-space"):
        wanted([tmp_path / "rows.npy"], None)


def test_failures_name_the_file_or_the_line_that_they_come_from(pictures: Path, tmp_path: Path) -> None:
    items = lines(tmp_path / "items.jsonl", {"id": "good", "text": "words"}, {"id": "nothing"})
    (pictures / "gone.png").symlink_to("/proc/self/mem")  # a file that cannot be read
    indexed = momoseek("index", pictures, items, data_dir=tmp_path / "data")
    assert indexed.returncode == 1
    assert f"failed {pictures / 'broken.png'}: " in indexed.stderr
    assert f"failed {pictures / 'gone.png'}: " in indexed.stderr
    assert f"failed {items}:2: " in indexed.stderr
    assert "3 written, 3 failed" in indexed.stderr


def test_files_of_the_formats_of_jobs_are_taken_by_their_ending(tmp_path: Path) -> None:
    table = pyarrow.table({"id": ["row"], "text": ["a red square"]})
    pyarrow.parquet.write_table(table, tmp_path / "shop.parquet")
    with tarfile.open(tmp_path / "shop.tar", "w") as tar:
        (tmp_path / "sample.txt").write_text("a blue square")
        tar.add(tmp_path / "sample.txt", "sample.txt")
    bundle = json.loads(momoseek("bundle", "info", "--json").stdout)
    np.save(tmp_path / "rows.npy", np.eye(2, bundle["dim"], dtype=np.float32))
    files = [tmp_path / name for name in ("shop.parquet", "shop.tar", "rows.npy")]
    data_dir = tmp_path / "data"
    indexed = momoseek("index", *files, "--embedding-space", bundle["encoder_id"], data_dir=data_dir)
    assert indexed.returncode == 0, indexed.stderr
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        ids = [item.id for item in catalog.scroll("default", "", 10)]
    assert ids == ["row", "rows-0", "rows-1", "sample"]


def test_a_file_that_is_not_of_its_format_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.parquet").write_text("{}")
    failed = momoseek("index", tmp_path / "shop.parquet", data_dir=tmp_path / "data")
    assert failed.returncode == 2
    assert "no Parquet" in failed.stderr


def test_a_command_that_is_killed_goes_on_from_its_checkpoint_and_a_later_one_begins_anew(
    tmp_path: Path,
) -> None:
    count = 1500
    items = lines(
        tmp_path / "items.jsonl", *({"id": f"i{n}", "text": f"a drawing of {n} things"} for n in range(count))
    )
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "service.cli", "index", str(items), "--data-dir", str(data_dir)]
    with closing(open_catalog(Settings(data_dir=data_dir))) as catalog:
        killed = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (jobs := catalog.jobs.page("running", "", 10)) or not jobs[0].at_line:
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        (begun,) = catalog.jobs.page(None, "", 10)
        assert (begun.state, 0 < begun.at_line < count) == ("running", True)

        again = momoseek("index", items, data_dir=data_dir)
        assert again.returncode == 0, again.stderr
        assert f"going on with {begun.id} behind {begun.at_line} of {count}" in again.stderr
        (ended,) = catalog.jobs.page(None, "", 10)
        assert (ended.id, ended.state, ended.done) == (begun.id, "succeeded", count)
        assert catalog.collection("default").last_seq == count  # each was written once

        later = momoseek("index", items, data_dir=data_dir)
        assert f"{count} unchanged" in later.stderr
        assert len(catalog.jobs.page(None, "", 10)) == 2
        assert list((data_dir / "spool").glob("*")) == []
