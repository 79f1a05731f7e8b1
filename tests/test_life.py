"""The whole life of an index, by chance: at every step the view is the catalog."""

import random
from pathlib import Path

import pytest

from index.catalog import Delete, Upsert
from index.live import Hit, View
from index.policy import Policy
from tests.house import QUERIES, House, assert_is_the_catalog
from tests.indexing import DIM, ENCODER, upsert

KINDS = (
    "auto",
    "HNSW32,Flat",
    "HNSW32,SQfp16,RFlat",
    "HNSW32,SQ8,RFlat",
    "IVF4,Flat",
    "IVF4,RaBitQfs4,RFlat",
)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_the_view_is_the_catalog(kind: str, tmp_path: Path) -> None:
    """Random writes, rebuilds, rollbacks, damage and restarts, against a plain dictionary."""
    dice = random.Random(KINDS.index(kind))
    house = House(tmp_path, Policy(keep=1, index_type=kind, dead_share=0.6))
    life = Life(house, dice)
    steps = [life.write] * 12 + [life.rebuild] * 3
    steps += [life.restart, life.roll_back, life.damage, life.lose_pointer, life.start_over]
    for _ in range(120):
        dice.choice(steps)()
        life.check()
    house.catalog.close()


class Life:
    """What can happen to an index, and a dictionary of what must be found after it."""

    def __init__(self, house: House, dice: random.Random) -> None:
        self.house = house
        self.dice = dice
        self.said: dict[str, str] = {}
        self.live = house.live()
        self.older: list[tuple[View, list[list[Hit]]]] = []

    def write(self) -> None:
        """A batch of upserts and deletes, some of one id."""
        ids = [f"i{self.dice.randrange(60)}" for _ in range(self.dice.choice([0, 1, 1, 2, 5, 30]))]
        writes: list[Upsert | Delete] = []
        for item_id in ids:
            if self.dice.random() < 0.3:
                writes.append(Delete(item_id))
                self.said.pop(item_id, None)
            else:
                self.said[item_id] = f"words {self.dice.randrange(50)}"
                writes.append(upsert(item_id, self.said[item_id]))
        self.house.catalog.commit("c", writes, ENCODER)

    def rebuild(self) -> None:
        """A new generation."""
        self.house.rebuild()

    def restart(self) -> None:
        """A new process."""
        self.house.catalog.close()
        self.house.reopen()
        self.live = self.house.live()

    def roll_back(self) -> None:
        """The pointer names some generation."""
        store = self.house.store
        if generations := [number for number in store.generations() if store._is_finished(number)]:
            store.roll_back(self.dice.choice(generations))

    def damage(self) -> None:
        """A bit flips in some generation."""
        store = self.house.store
        if generations := [number for number in store.generations() if store._is_finished(number)]:
            generation = self.dice.choice(generations)
            files = sorted((store.root / f"{generation:06d}").iterdir())
            self.house.damage(generation, self.dice.choice(files).name)

    def lose_pointer(self) -> None:
        """CURRENT becomes garbage."""
        if self.house.store.root.exists():
            (self.house.store.root / "CURRENT").write_bytes(self.dice.choice([b"", b"\xff\xfe", b"999999"]))

    def start_over(self) -> None:
        """The collection is deleted and made anew under its name."""
        self.house.catalog.delete_collection("c")
        self.house.catalog.create_collection("c", ENCODER, DIM)
        self.said.clear()

    def check(self) -> None:
        """The view is the catalog, the catalog is the dictionary, and older views have not changed."""
        view = self.live.refresh()
        assert_is_the_catalog(view, self.house.catalog)
        assert {item.id: item.content for item in self.house.catalog.scroll("c", "", 1000)} == self.said
        self.older.append((view, view.search(QUERIES, 10)))
        chosen, answers = self.dice.choice(self.older)
        assert chosen.search(QUERIES, 10) == answers
