"""Kinds of index, and which one a collection gets: by its size and the memory it may take."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

FLAT_LIMIT = 20_000  # rows; below it an exact search takes less than about 4 ms on two cores
# What a factory string looks like. A graph of one link would have layers without end.
PATTERN = (
    r"^(?:Flat|(?:HNSW[1-9][0-9]{1,2}|IVF[1-9][0-9]{0,5}),(?:Flat|SQ8,RFlat|SQfp16,RFlat)"
    r"|IVF[1-9][0-9]{0,5},RaBitQfs[1-8],RFlat)$"
)
_PARTS = re.compile(r"(HNSW|IVF)([0-9]+),(Flat|SQ8,RFlat|SQfp16,RFlat|RaBitQfs([1-8]),RFlat)")
_BITS = {"Flat": 32, "SQfp16,RFlat": 16, "SQ8,RFlat": 8}
_OVERHEAD_BYTES = 32  # of a row: its id, the place of its links, and factors beside its code


class InvalidKind(ValueError):
    """There is no such kind of index; the message says which there are."""


@dataclass(frozen=True)
class Kind:
    """A factory string, read: ``Flat``, a graph (``HNSW32,…``) or lists (``IVF4096,…``).

    After the comma stands what is searched there: the vectors themselves (``Flat``), or codes that find
    candidates for the vectors to decide on (``RFlat``): half floats, bytes, or one to eight bits a number.
    """

    factory: str
    links: int = 0  # of a row in a graph; twice as many in its lowest layer
    lists: int = 0
    bits: int = 32  # a number, as it is searched

    @staticmethod
    def of(factory: str) -> "Kind":
        """Read a factory string. Raises InvalidKind."""
        if re.fullmatch(PATTERN, factory) is None:
            raise InvalidKind(
                f"There is no index {factory!r}. It may be Flat, or HNSW32 (10 to 999) or IVF4096, and Flat, "
                "SQfp16,RFlat or SQ8,RFlat after a comma; IVF also with RaBitQfs4,RFlat (1 to 8)."
            )
        found = _PARTS.fullmatch(factory)
        if found is None:
            return Kind(factory)
        number, bits = int(found[2]), int(found[4] or 0) or _BITS[found[3]]
        return Kind(factory, **({"links": number} if found[1] == "HNSW" else {"lists": number}), bits=bits)

    @property
    def has_codes(self) -> bool:
        """Whether codes are searched, and the vectors only decide."""
        return self.bits < 32

    @property
    def is_packed(self) -> bool:
        """Whether FAISS reads its codes into an order of its own: a mapped file would be there once more."""
        return "RaBitQfs" in self.factory

    @property
    def is_bare_graph(self) -> bool:
        """Whether it is links between the vectors, which it needs no copy of."""
        return bool(self.links) and not self.has_codes

    def resident_bytes(self, count: int, dim: int) -> int:
        """About how much memory searches keep busy with so many rows."""
        row = dim * self.bits / 8 + 8 * self.links + (_OVERHEAD_BYTES if self.links or self.lists else 0)
        return math.ceil(count * row + 4 * dim * self.lists)


def choose(count: int, dim: int, budget_bytes: int | None = None, flat_limit: int = FLAT_LIMIT) -> Kind:
    """The kind for so many rows: exact while few, else the fastest within the budget, or the smallest."""
    if count <= flat_limit:
        return Kind.of("Flat")
    kinds, budget = list(_by_speed(count)), math.inf if budget_bytes is None else budget_bytes
    return next((kind for kind in kinds if kind.resident_bytes(count, dim) <= budget), kinds[-1])


def _by_speed(count: int) -> Iterator[Kind]:
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    for factory in (
        "HNSW32,Flat",
        "HNSW32,SQ8,RFlat",
        f"IVF{lists},RaBitQfs4,RFlat",
        f"IVF{lists},RaBitQfs1,RFlat",
    ):
        yield Kind.of(factory)
