"""Words in a snapshot, in one that grew, and in what was written after it: found alike."""

from pathlib import Path

import numpy as np

from index.catalog import Delete
from index.filters import parse
from index.lexical import matching
from index.policy import Policy
from tests.house import House
from tests.indexing import ENCODER, upsert

TEXTS = {"a": "red boot", "b": "red red hat", "c": "Blue boots", "d": "green"}


def scores(house: House, *words: str) -> dict[str, float]:
    """What words find in the newest view, by id."""
    live = house.live()
    with live.reading() as (view, reading):
        found = matching(view, None, words, [])
        items = reading.items_at(found.seqs.tolist())
        return {
            items[seq].id: score
            for seq, score in zip(found.seqs.tolist(), found.scores.tolist(), strict=True)
        }


def test_a_rebuild_changes_nothing_of_what_words_find(tmp_path: Path) -> None:
    house = House(tmp_path, Policy(keep=2))
    house.catalog.commit("c", [upsert(name, text=text) for name, text in TEXTS.items()], ENCODER)
    before = scores(house, "red", "boot")
    assert before.keys() == {"a", "b"}
    assert before["a"] > before["b"] > 0
    house.rebuild()
    assert scores(house, "red", "boot") == before
    house.catalog.commit("c", [upsert("e", text="a boot"), upsert("b", text="hat"), Delete("a")], ENCODER)
    mixed = scores(house, "red", "boot", "hat")
    assert mixed.keys() == {"b", "e"}
    house.rebuild()
    assert scores(house, "red", "boot", "hat") == mixed


def test_a_word_that_all_have_tells_nothing_and_a_rare_one_much(tmp_path: Path) -> None:
    house = House(tmp_path)
    names = [f"i{n}" for n in range(50)]
    house.catalog.commit(
        "c", [upsert(name, text=f"shoe {'x4711' if name == 'i7' else ''}") for name in names], ENCODER
    )
    found = scores(house, "shoe", "x4711")
    assert found["i7"] > 100 * found["i8"] > 0


def test_metadata_and_filters_are_those_of_the_index(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.catalog.commit(
        "c",
        [
            upsert("a", text="red", metadata={"title": ["Suede boot", "brown"], "price": 5}),
            upsert("b", text="suede", metadata={"title": "hat", "price": 50}),
        ],
        ENCODER,
    )
    view = house.live().view
    assert matching(view, None, ["suede"], []).seqs.tolist() == [2]
    assert matching(view, None, ["suede"], ["title"]).seqs.tolist() == [1, 2]
    cheap = parse({"must": [{"key": "price", "range": {"lt": 10}}]})
    assert matching(view, cheap, ["suede"], ["title"]).seqs.tolist() == [1]


def test_words_are_no_metadata(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.catalog.commit("c", [upsert("a", text="red"), upsert("b", text="x", metadata={"": "red"})], ENCODER)
    filter = parse({"must": [{"key": "", "match": {"text": "red"}}]})
    assert house.live().view.seqs(filter).tolist() == [2]
    assert matching(house.live().view, None, ["red"], []).seqs.tolist() == [1]
    assert np.isinf(matching(house.live().view, None, ["none"], []).ranks_of(np.array([1, 2]))).all()
