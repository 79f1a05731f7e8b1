"""Relevance: how likely it is that what was found belongs to the query, by curves fitted to the encoder."""

from collections.abc import Collection, Mapping, Sequence

from models.preprocess import Modality
from models.relevance import KINDS, Curve, Relevance
from service.reranker import Found

Curves = Mapping[Modality, Curve]  # by the modality of items


class RelevanceUnknown(ValueError):
    """A relevance is asked for that nobody has measured."""


def curves_of(relevance: Relevance, query: Modality) -> Curves:
    """The curves for queries of a modality."""
    known = {item: relevance.curves.get((query, item)) for item in KINDS}
    return {item: curve for item, curve in known.items() if curve is not None}


def least_scores(
    curves: Curves, min_relevance: float, modalities: Collection[Modality]
) -> dict[Modality, float]:
    """The scores from which on items of each modality are relevant enough. Raises RelevanceUnknown."""
    if not curves:
        raise RelevanceUnknown(
            "min_relevance needs a query of one document, and an encoder that was calibrated for it."
        )
    missing = [item for item in modalities if item not in curves]
    if missing:
        raise RelevanceUnknown(
            f"The encoder was not calibrated for this query and items of modality {', '.join(missing)}; "
            "narrow the target."
        )
    return {item: curves[item].cosine(min_relevance) for item in modalities}


def with_relevance(results: Sequence[Found], curves: Curves) -> list[Found]:
    """Results that know their relevance, where there is a curve for them."""
    return [
        found._replace(relevance=curves[found.item.modality].relevance(found.score))
        if found.item.modality in curves
        else found
        for found in results
    ]
