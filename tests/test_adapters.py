"""Adapters in the catalog: which serves, which follows which, and what becomes of them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index.adapters import AdapterNotFound, AdapterRefused, AdapterStateConflict, Learned
from index.catalog import Catalog, CollectionNotFound
from tests.postgresql import fresh_database

ENCODER = "fake-000000000000"


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with two collections, on either database."""
    url = fresh_database() if request.param == "postgresql" else f"sqlite:///{tmp_path}/catalog.db"
    catalog = Catalog(url)
    for name in ("c", "d"):
        catalog.create_collection(name, ENCODER, 4)
    yield catalog
    catalog.close()


def added(catalog: Catalog, collection: str = "c", *, accepted: bool = True) -> str:
    """The id of a new adapter."""
    learned = Learned(b"weights", {"image": {"slope": 9.0, "offset": 0.2}}, {"accepted": accepted})
    uid = catalog.collection(collection).uid
    time.sleep(0.002)  # ids are in order of time
    return catalog.adapters.add(uid, "a label", ENCODER, learned).id


def standing(catalog: Catalog) -> dict[str, tuple[str, float]]:
    """The state and the share of every adapter."""
    return {found.id: (found.state, found.share) for found in catalog.adapters.page(None, "", 100)}


def test_an_adapter_is_told_as_it_was_added(catalog: Catalog) -> None:
    found = catalog.adapters.get(added(catalog))
    assert (found.name, found.label, found.state, found.share) == ("c", "a label", "ready", 0.0)
    assert found.curves == {"image": {"slope": 9.0, "offset": 0.2}}
    assert catalog.adapters.weights(found.id) == b"weights"
    assert catalog.adapters.serving() == []


def test_one_is_promoted_at_a_time_and_a_rollback_brings_the_one_before_back(catalog: Catalog) -> None:
    first, second, other = added(catalog), added(catalog), added(catalog, "d")
    for id in (first, other, second):
        assert catalog.adapters.promote(id).state == "promoted"
    assert standing(catalog) == {
        first: ("retired", 0.0),
        second: ("promoted", 0.0),
        other: ("promoted", 0.0),
    }
    assert catalog.adapters.get(second).follows == first
    assert catalog.adapters.roll_back(second).state == "rolled_back"
    assert {found.id for found in catalog.adapters.serving()} == {first, other}
    assert catalog.adapters.roll_back(first).state == "rolled_back"
    assert {found.id for found in catalog.adapters.serving()} == {other}


def test_to_promote_or_roll_back_twice_is_to_do_it_once(catalog: Catalog) -> None:
    first, second = added(catalog), added(catalog)
    catalog.adapters.promote(first)
    for _ in range(2):
        assert catalog.adapters.promote(second).follows == first
    for _ in range(2):
        assert catalog.adapters.roll_back(second).state == "rolled_back"
    assert standing(catalog)[first] == ("promoted", 0.0)


def test_one_is_on_trial_at_a_time_beside_the_one_that_is_promoted(catalog: Catalog) -> None:
    promoted, tried, other = added(catalog), added(catalog), added(catalog)
    catalog.adapters.promote(promoted)
    assert catalog.adapters.set_share(tried, 0.25).share == 0.25
    with pytest.raises(AdapterStateConflict, match=tried):
        catalog.adapters.set_share(other, 0.1)
    with pytest.raises(AdapterStateConflict, match="promoted"):
        catalog.adapters.set_share(promoted, 0.1)
    assert {found.id for found in catalog.adapters.serving()} == {promoted, tried}
    assert catalog.adapters.roll_back(tried).state == "rolled_back"
    assert standing(catalog)[promoted] == ("promoted", 0.0)
    catalog.adapters.set_share(other, 0.1)
    assert catalog.adapters.promote(other).share == 0.0


def test_one_on_trial_that_a_rollback_promotes_is_on_trial_no_more(catalog: Catalog) -> None:
    former, later, other = added(catalog), added(catalog), added(catalog)
    catalog.adapters.promote(former)
    catalog.adapters.promote(later)
    catalog.adapters.set_share(former, 0.5)
    catalog.adapters.roll_back(later)
    assert standing(catalog)[former] == ("promoted", 0.0)
    assert catalog.adapters.set_share(other, 0.1).share == 0.1


def test_what_the_gate_refused_serves_nothing(catalog: Catalog) -> None:
    refused = added(catalog, accepted=False)
    for serve in (catalog.adapters.promote, lambda id: catalog.adapters.set_share(id, 0.1)):
        with pytest.raises(AdapterRefused):
            serve(refused)
    with pytest.raises(AdapterStateConflict):
        catalog.adapters.roll_back(refused)
    assert standing(catalog) == {refused: ("refused", 0.0)}


def test_what_serves_is_not_deleted(catalog: Catalog) -> None:
    adapter = added(catalog)
    catalog.adapters.promote(adapter)
    with pytest.raises(AdapterStateConflict):
        catalog.adapters.delete(adapter)
    catalog.adapters.roll_back(adapter)
    catalog.adapters.delete(adapter)
    for asked in (catalog.adapters.get, catalog.adapters.weights, catalog.adapters.promote):
        with pytest.raises(AdapterNotFound):
            asked(adapter)


def test_the_one_before_may_be_gone(catalog: Catalog) -> None:
    first, second = added(catalog), added(catalog)
    catalog.adapters.promote(first)
    catalog.adapters.promote(second)
    catalog.adapters.delete(first)
    catalog.adapters.roll_back(second)
    assert catalog.adapters.serving() == []


def test_adapters_go_with_their_collection(catalog: Catalog) -> None:
    gone, left = added(catalog), added(catalog, "d")
    uid = catalog.collection("c").uid
    catalog.adapters.promote(gone)
    catalog.delete_collection("c")
    assert list(standing(catalog)) == [left]
    catalog.create_collection("c", ENCODER, 4)
    with pytest.raises(CollectionNotFound):
        catalog.adapters.add(uid, None, ENCODER, Learned(b"", {}, {"accepted": True}))


def test_pages_are_the_newest_first_and_of_collections_that_may_be_seen(catalog: Catalog) -> None:
    ids = [added(catalog, name) for name in ("c", "d", "c")]

    def page(*asked: Any) -> list[str]:
        return [found.id for found in catalog.adapters.page(*asked)]

    assert page(None, "", 2) == [ids[2], ids[1]]
    assert page(None, ids[1], 2) == [ids[0]]
    assert page("c", "", 9) == [ids[2], ids[0]]
    assert page(None, "", 9, {"d"}) == [ids[1]]
    with pytest.raises(AdapterNotFound):
        catalog.adapters.get(ids[0], {"d"})
    with pytest.raises(AdapterNotFound):
        catalog.adapters.promote(ids[0], {"d"})


def test_a_transaction_that_fails_adds_nothing(catalog: Catalog) -> None:
    def failing(id: str) -> Any:
        def also(connection: object) -> None:
            raise RuntimeError(id)

        return also

    learned = Learned(b"weights", {}, {"accepted": True})
    with pytest.raises(RuntimeError, match="ada_"):
        catalog.adapters.add(catalog.collection("c").uid, None, ENCODER, learned, failing)
    assert standing(catalog) == {}
