"""Classification and similarity as JSON."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.json_schema import given, one_of, whole
from service.schemas import COLLECTION_PATTERN, Form, Input, Problem, TimeoutMs, example
from service.schemas_inference import ON_ERROR, InputOrInputs, OnError, Usage


def _with_one_gap(template: str) -> str:
    if not re.fullmatch(_GAP, template):
        raise ValueError("a template has {} once, where the label goes, and no other braces")
    return template


def _all_different(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("there is a label twice")
    return values


_GAP = r"^[^{}]*\{\}[^{}]*$"
_Label = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]
_Template = Annotated[
    str, Field(max_length=500, json_schema_extra={"pattern": _GAP}), AfterValidator(_with_one_gap)
]


class ClassifyRequest(Form):
    """What to choose from, by names or by examples, and for what."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": ["a pair of suede boots"],
                    "labels": ["boots", "hats"],
                    "templates": ["a photo of {}"],
                }
            ],
            **one_of("labels", "label_set"),
            "not": {"allOf": [given("label_set"), {"required": ["templates"]}]},
        }
    )

    inputs: InputOrInputs = Field(description="what to label: a text, a document, or a list of them")
    labels: (
        Annotated[
            list[_Label],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
            AfterValidator(_all_different),
        ]
        | None
    ) = Field(None, description="names of classes, as people would write them", examples=[["boots", "hats"]])
    label_set: str | None = Field(
        None,
        pattern=COLLECTION_PATTERN,
        description="instead of labels: a collection whose items are examples, each of the label that its "
        "metadata's member label names, or else its id",
    )
    templates: list[_Template] = Field(
        ["{}"],
        min_length=1,
        max_length=32,
        description="texts that a label is put into at {}; a label's row is the unit mean of theirs. For "
        "photographs a template such as a photo of a {} may help",
        examples=[["a photo of a {}", "a drawing of a {}"]],
    )
    multi_label: bool = Field(False, description="score each label by itself: several may fit, or none")
    min_score: float = Field(0.0, ge=0, le=1, description="labels that score less are left out")
    top_k: Annotated[int, whole] = Field(
        100, ge=1, le=1000, description="how many labels of each input, at most"
    )
    model: str | None = Field(None, description="the encoder; the server's own if absent")
    on_error: OnError = Field("fail", description=ON_ERROR)
    timeout_ms: TimeoutMs = None

    @model_validator(mode="after")
    def _one_source(self) -> "ClassifyRequest":
        if (self.labels is None) == (self.label_set is None):
            raise ValueError("give either labels or label_set")
        if self.label_set is not None and "templates" in self.model_fields_set:
            raise ValueError("templates are for labels; the items of a label_set are compared as they are")
        return self

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """A field inputs with a text, uploaded pictures, each an input, and labels with commas between."""
        request: dict[str, Any] = dict(fields)
        texts = [request["inputs"]] if "inputs" in request else []
        request["inputs"] = [*texts, *({"image": {"upload": upload}} for upload in uploads)]
        if "labels" in request:
            request["labels"] = [label.strip() for label in request["labels"].split(",")]
        return request


class LabelScore(BaseModel):
    """How well a label fits."""

    label: str = Field(description="as in the request, or the name of the label set's class")
    score: float = Field(description="from 0 to 1; what it means depends on multi_label")


class ClassifyResult(BaseModel):
    """What fits one input: labels, best first, or what is wrong with it."""

    index: int = Field(description="of the input in the request")
    labels: list[LabelScore] | None = Field(None, description="best first; absent if it failed")
    abstained: bool | None = Field(None, description="no label reached min_score")
    problem: Problem | None = Field(None, description="of an input that failed")


class ClassifyReply(BaseModel):
    """Results in the order of the inputs."""

    model_config = example(
        results=[{"index": 0, "labels": [{"label": "boots", "score": 0.93}], "abstained": False}],
        model="momo-mini",
        calibrated=True,
        usage={"prompt_tokens": 7, "total_tokens": 7, "image_count": 0, "image_pixels": 0},
    )

    results: list[ClassifyResult] = Field(description="one for each input")
    model: str = Field(description="the encoder's name")
    calibrated: bool = Field(description="the scores were fitted to measurements of this very encoder")
    usage: Usage = Field(description="of the inputs; labels are embedded once and kept")


class SimilarityRequest(Form):
    """One content to compare with others."""

    model_config = example(source="a red apple", targets=["an apple", {"text": "a tree in winter"}])

    source: Input = Field(description="what is compared")
    targets: list[Input] = Field(min_length=1, description="with what")
    model: str | None = Field(None, description="the encoder; the server's own if absent")
    timeout_ms: TimeoutMs = None

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields source and model, and uploaded pictures, each a target."""
        return {**fields, "targets": [{"image": {"upload": upload}} for upload in uploads]}


class SimilarityReply(BaseModel):
    """Cosines."""

    model_config = example(
        scores=[0.71, 0.38],
        model="momo-mini",
        usage={"prompt_tokens": 16, "total_tokens": 16, "image_count": 0, "image_pixels": 0},
    )

    scores: list[float] = Field(description="the cosine of the source with each target, in their order")
    model: str = Field(description="the encoder's name")
    usage: Usage = Field(description="of the source and all targets")
