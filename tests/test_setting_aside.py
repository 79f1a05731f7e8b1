"""A graph that takes long to build is set aside on the way: whoever is killed goes on from there."""

import logging
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from index import bases
from index.audit import audit
from index.catalog import Delete
from index.folders import unfinished
from index.policy import Policy
from index.rebuild import Report
from tests.house import House, assert_is_the_catalog
from tests.indexing import ENCODER, filled, upsert
from tests.mortals import dies_at_line

POLICY = Policy(flat_limit=50, step_rows=60, dead_share=0.4, keep=1)


@pytest.fixture
def house(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[House]:
    """A house with 300 items and no snapshot: they are set aside at 60, 120 and 240."""
    caplog.set_level(logging.INFO)
    house = House(tmp_path, POLICY)
    filled(house.catalog, "c", 300)
    yield house
    house.catalog.close()


def rebuilt(house: House) -> Report:
    """What became of a rebuild."""
    return house.rebuilder.rebuild("c", "test", time.time(), anew=True)


def build(folder: Path) -> None:
    """The same in a process of its own."""
    rebuilt(House(folder, POLICY))


def killed_with_a_graph_aside(house: House, folder: Path) -> int:
    """Kill a build as soon as something is aside; how many rows that has."""
    aside, line = unfinished(house.store), count(1, 4)
    while aside.current() is None:
        assert dies_at_line(next(line), str(bases.__file__), build, folder)
    return aside.manifest(aside.current() or 0).count


def assert_whole(house: House) -> None:
    """What serves is what the catalog holds, and nothing is aside any more."""
    live = house.live()
    assert (live.view.generation, live.last_error) == (house.store.current(), None)
    assert_is_the_catalog(live.view, house.catalog)
    assert audit(house.catalog, lambda _: house.store, "c").problems == ()
    assert not unfinished(house.store).root.exists()


def test_a_long_build_is_set_aside_at_every_doubling(house: House, caplog: pytest.LogCaptureFixture) -> None:
    assert rebuilt(house).how == "full"
    said = [record.message for record in caplog.records if "set aside" in record.message]
    assert said == [f"{rows} rows of c are set aside" for rows in (60, 120, 240)]
    assert_whole(house)


def test_a_short_one_is_not(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.policy = Policy(**(vars(POLICY) | {"step_rows": 300}))
    house.reopen()
    assert rebuilt(house).published
    assert "set aside" not in caplog.text
    assert_whole(house)


def test_a_killed_build_goes_on_from_what_is_aside(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = killed_with_a_graph_aside(house, tmp_path)
    report = rebuilt(house)
    assert (report.how, report.published, report.count) == ("full", True, 300)
    assert f"the build goes on after {rows} rows" in caplog.text
    assert house.store.manifest(house.store.current() or 0).dead == 0
    assert_whole(house)


def test_what_was_written_meanwhile_counts(house: House, tmp_path: Path) -> None:
    killed_with_a_graph_aside(house, tmp_path)
    house.catalog.commit(
        "c", [Delete("item-1"), upsert("item-2", "another"), upsert("item-301", "more")], ENCODER
    )
    report = rebuilt(house)
    assert (report.how, report.count) == ("full", 300)
    assert house.store.manifest(house.store.current() or 0).dead == 2
    assert_whole(house)


def test_what_is_aside_of_another_log_is_not_gone_on_with(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_with_a_graph_aside(house, tmp_path)
    house.catalog.delete_collection("c")
    filled(house.catalog, "c", 310, prefix="other")
    assert rebuilt(house).count == 310
    assert "goes on" not in caplog.text
    assert_whole(house)


def test_damage_of_what_is_aside_costs_time_and_nothing_else(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_with_a_graph_aside(house, tmp_path)
    aside = unfinished(house.store)
    path = aside.folder(aside.current() or 0) / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    assert rebuilt(house).published
    assert "cannot grow" in caplog.text
    assert_whole(house)


def test_without_room_to_set_it_aside_it_is_built_all_the_same(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.store.root.mkdir(parents=True)
    unfinished(house.store).root.write_text("in the way")
    assert rebuilt(house).published
    assert "is not set aside" in caplog.text
    unfinished(house.store).root.unlink()
    assert_whole(house)


def test_a_build_may_die_at_any_line_of_setting_aside(house: House, tmp_path: Path) -> None:
    for line in count(1, 11):
        died = dies_at_line(line, str(bases.__file__), build, tmp_path)
        assert rebuilt(house).published
        assert_whole(house)
        if not died:
            break
    assert line > 50
