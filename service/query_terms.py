"""Terms: what a query is made of, and what becomes of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.vectors import Vectors
from service.adapters import Serving
from service.given import Given
from service.reading import Content
from service.reranker import NotOneDocument

_MIN_LENGTH = 1e-3  # of a weighted sum of unit rows; a shorter one is rounding noise without a direction


class QueryCancelsOut(ValueError):
    """The weighted terms of a query add up to nothing."""


@dataclass(frozen=True)
class Term:
    """One term of a query: the content to look for, a row that is given, or the id of an item to resemble.

    ``made_of`` is an item that went into the content, ``pointer`` the member of the body that the term was.
    """

    content: Content = ()
    item_id: str | None = None
    given: Given | None = None
    made_of: str | None = None
    weight: float = 1.0
    pointer: str = "/query"

    @property
    def is_words(self) -> bool:
        """Whether it is words and nothing else."""
        return bool(self.content) and all(isinstance(part, str) for part in self.content)


class Adapted:
    """What becomes of the rows of terms: those of words are adapted, by ``serving`` if there is one."""

    def __init__(self, terms: Sequence[Term], serving: Serving | None) -> None:
        self._serving = serving
        self._here = [] if serving is None else [n for n, term in enumerate(terms) if term.is_words]

    @property
    def by(self) -> str | None:
        """The id of the adapter that adapts any."""
        return self._serving.id if self._serving is not None and self._here else None

    def __call__(self, rows: Vectors) -> Vectors:
        """Rows (terms, dim) as they look for neighbours."""
        if self._serving is None or not self._here:
            return rows
        found = rows.copy()
        found[self._here] = self._serving.adapt(rows[self._here])
        return found


def words_of(terms: Sequence[Term]) -> str:
    """The words of the terms that are nothing else."""
    words = (part for term in terms if term.is_words for part in term.content)
    return "\n".join(part for part in words if isinstance(part, str))


def sum_of(terms: Sequence[Term], rows: Vectors) -> Vectors:
    """The unit row (1, dim) of the weighted sum of the terms. Raises QueryCancelsOut."""
    if len(terms) == 1 and terms[0].weight > 0:
        return rows
    total: Vectors = np.array([term.weight for term in terms], np.float32) @ rows
    length = float(np.linalg.norm(total))
    if not length > _MIN_LENGTH:
        raise QueryCancelsOut("The weighted terms of the query cancel out.")
    return (total / np.float32(length)).reshape(1, -1)


def kind_of(terms: Sequence[Term]) -> str:
    """What a query is made of: text, image, item, vector, or mixed."""
    kinds = set[str]()
    for term in terms:
        if not term.content:
            kinds.add("item" if term.given is None else "vector")
        kinds.update("text" if isinstance(part, str) else "image" for part in term.content)
    return kinds.pop() if len(kinds) == 1 else "mixed"


def averaged(positive: Sequence[Term], negative: Sequence[Term]) -> list[Term]:
    towards = (2.0 if negative else 1.0) / sum(term.weight for term in positive)
    away = -1.0 / sum(term.weight for term in negative) if negative else 0.0
    return [
        *(replace(term, weight=towards * term.weight) for term in positive),
        *(replace(term, weight=away * term.weight) for term in negative),
    ]


def check_one_document(terms: Sequence[Term]) -> None:
    if len(terms) > 1:
        raise NotOneDocument(
            "Weighted terms cannot be reranked; put the parts of the query into one content list."
        )
    if terms[0].given is not None:
        raise NotOneDocument("A vector cannot be read beside the results: give what it was made of.")
    if terms[0].weight <= 0:
        raise NotOneDocument("A query to keep away from cannot be reranked.")
