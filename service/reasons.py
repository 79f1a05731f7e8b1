"""What speaks for a result, at no cost: how near it is to each term, and which words it has."""

from index.terms import words
from index.vectors import Vectors
from service.hybrid import Hybrid
from service.reranker import Found


def explained(found: Found, rows: Vectors, hybrid: Hybrid | None) -> Found:
    """A result with its cosine with each of the terms' rows, and the words of a hybrid search that it has."""
    assert found.vector is not None
    item, asked = found.item, [] if hybrid is None else hybrid.words
    values = [item.text, *(item.metadata.get(key) for key in (hybrid.keys if hybrid else ()))]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    there = {word for text in texts if isinstance(text, str) for word in words(text)}
    return found._replace(
        terms=[float(cosine) for cosine in rows @ found.vector],
        words=[word for word in asked if word in there],
    )
