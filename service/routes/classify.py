"""Classification by labels, and similarity: cosines of one request's own contents."""

from collections.abc import Sequence
from typing import Annotated, cast

from fastapi import Depends, Request, Response

from service import auth
from service.blame import Blamed
from service.bodies import read
from service.caller import within
from service.classify import Classifier, Scored
from service.embedder import TooManyItems, model_name
from service.errors import problem_of
from service.routes import RetrieverDep, body, guarded
from service.routes.collections import check_model
from service.routes.embeddings import content_of, usage_of
from service.schemas_classify import (
    ClassifyReply,
    ClassifyRequest,
    ClassifyResult,
    LabelScore,
    SimilarityReply,
    SimilarityRequest,
)

router = guarded("classify", "/v1")


async def _classifier(request: Request) -> Classifier:
    return cast(Classifier, request.app.state.classifier)


ClassifierDep = Annotated[Classifier, Depends(_classifier)]


@router.post("/classify", openapi_extra=body(ClassifyRequest, form=True), response_model=ClassifyReply)
async def classify(request: Request, retriever: RetrieverDep, classifier: ClassifierDep) -> Response:
    """Which labels fit each input. Nothing is trained: an input is compared with the labels' names, put into
    each of the ``templates``, or with the items of a collection (``label_set``) that are examples of them.

    What a score means. By default exactly one label is taken to be right, and the scores are shares of that
    certainty: they add up to 1 over all labels, and an input that fits none of them still gets 1 in all. With
    ``multi_label`` each label is scored by itself; 0.5 is where, for this encoder, pairs of input and label
    that belong together are as frequent as pairs that do not. Both were fitted on other data than yours if
    ``calibrated`` is true, and are a guess if it is false; choose ``min_score`` on examples of your own.
    Labels below ``min_score`` are left out, and ``abstained`` says that none was left.
    """
    wanted, uploads = await read(request, ClassifyRequest)
    check_model(wanted.model, retriever)
    inputs = wanted.inputs if isinstance(wanted.inputs, list) else [wanted.inputs]
    if len(inputs) > retriever.limits.max_items:
        raise TooManyItems(f"{len(inputs)} inputs; at most {retriever.limits.max_items} are allowed.")
    if wanted.label_set is None:
        labels = await classifier.labels(wanted.labels or [], wanted.templates)
    else:
        label_set = await auth.allowed_collection(request, wanted.label_set)
        labels = await classifier.label_set(label_set)
    contents = [content_of(value, uploads, retriever) for value in inputs]
    good = [content for content in contents if not isinstance(content, Exception)]
    async with within(wanted.timeout_ms):
        found = iter(
            await classifier.classify(
                good,
                labels,
                multi_label=wanted.multi_label,
                min_score=wanted.min_score,
                top_k=wanted.top_k,
            )
        )
    results, classified = [], []
    for index, content in enumerate(contents):
        scored = content if isinstance(content, Exception) else next(found)
        if isinstance(scored, Exception) and wanted.on_error == "fail":
            raise Blamed(scored, f"/inputs/{index}")
        results.append(_result(index, scored))
        if isinstance(content, tuple) and not isinstance(scored, Exception):
            classified.append(content)
    answer = ClassifyReply(
        results=results,
        model=model_name(retriever.encoder.id),
        calibrated=classifier.calibrated,
        usage=await usage_of(classified, retriever),
    )
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


@router.post("/similarity", openapi_extra=body(SimilarityRequest, form=True), response_model=SimilarityReply)
async def similarity(request: Request, retriever: RetrieverDep, classifier: ClassifierDep) -> Response:
    """The cosine of a source with each target, in their order: 1 is the same, and what is unrelated lies
    near 0 or a little above. A bad target fails the request and is pointed at."""
    wanted, uploads = await read(request, SimilarityRequest)
    check_model(wanted.model, retriever)
    source = content_of(wanted.source, uploads, retriever)
    if isinstance(source, Exception):
        raise Blamed(source, "/source")
    targets = []
    for index, target in enumerate(wanted.targets):
        content = content_of(target, uploads, retriever)
        if isinstance(content, Exception):
            raise Blamed(content, f"/targets/{index}")
        targets.append(content)
    async with within(wanted.timeout_ms):
        error, cosines = await classifier.similarities(source, targets)
    if error is not None:
        raise Blamed(error, "/source")
    scores = []
    for index, cosine in enumerate(cosines):
        if isinstance(cosine, Exception):
            raise Blamed(cosine, f"/targets/{index}")
        scores.append(round(cosine, 6))
    answer = SimilarityReply(
        scores=scores,
        model=model_name(retriever.encoder.id),
        usage=await usage_of([source, *targets], retriever),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _result(index: int, scored: Sequence[Scored] | Exception) -> ClassifyResult:
    if isinstance(scored, Exception):
        return ClassifyResult(index=index, problem=problem_of(scored))
    labels = [LabelScore(label=found.label, score=round(found.score, 6)) for found in scored]
    return ClassifyResult(index=index, labels=labels, abstained=not labels)
