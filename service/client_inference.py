"""The client's calls about contents alone: their rows, their matches, and what makes them near."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from index.vectors import Vectors
from service.schemas_classify import (
    ClassifyReply,
    SimilarityReply,
)
from service.schemas_explain import ExplainReply
from service.schemas_inference import (
    EmbeddingsReply,
    RerankReply,
)
from service.schemas_models import ModelList
from service.transport import Transport, given

Content = str | Mapping[str, Any]


class InferenceCalls(Transport):
    """Nothing is written by these."""

    def models(self) -> ModelList:
        """The encoder that runs, and its limits."""
        return self._call("GET", "/v1/models", ModelList)

    def embed(self, inputs: Sequence[Content]) -> Vectors:
        """A unit row for each input: float32 (inputs, dim)."""
        body = {"input": inputs, "encoding_format": "base64"}
        entries = self._call("POST", "/v1/embeddings", EmbeddingsReply, body).data
        rows = [np.frombuffer(base64.b64decode(str(entry.embedding)), "<f4") for entry in entries]
        return np.stack(rows).astype(np.float32)

    def rerank(
        self, query: Content, documents: Sequence[Content], *, top_n: int | None = None
    ) -> RerankReply:
        """Documents in order of the probability that they match the query."""
        body = given(query=query, documents=documents, top_n=top_n)
        return self._call("POST", "/v1/rerank", RerankReply, body)

    def classify(
        self,
        inputs: Sequence[Content],
        labels: Sequence[str] | None = None,
        *,
        label_set: str | None = None,
        templates: Sequence[str] | None = None,
        multi_label: bool = False,
        min_score: float = 0.0,
        top_k: int | None = None,
    ) -> ClassifyReply:
        """Which of the labels, or of the labels in the collection ``label_set``, fit each input."""
        options = given(labels=labels, label_set=label_set, templates=templates, top_k=top_k)
        body = {"inputs": inputs, "multi_label": multi_label, "min_score": min_score, **options}
        return self._call("POST", "/v1/classify", ClassifyReply, body)

    def similarity(self, source: Content, targets: Sequence[Content]) -> list[float]:
        """The cosine of a source with each target."""
        body = {"source": source, "targets": targets}
        return self._call("POST", "/v1/similarity", SimilarityReply, body).scores

    def explain(
        self,
        query: Content,
        item: Content | None = None,
        *,
        stored: tuple[str, str] | None = None,
        grid: int = 6,
        overlay: bool = False,
    ) -> ExplainReply:
        """Which regions and which words make two documents near; the second may be ``stored``: a collection
        and an id."""
        named = None if stored is None else {"collection": stored[0], "id": stored[1]}
        body = {**given(query=query, item=item, stored=named), "grid": grid, "overlay": overlay}
        return self._call("POST", "/v1/explain", ExplainReply, body)
