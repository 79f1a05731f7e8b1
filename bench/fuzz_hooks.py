# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-unimported"
"""What schemathesis has to know of this API: its lines of JSON, and which refusals no schema can foretell."""

import json
from base64 import b64encode
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import RejectedPositiveData

# What is said beyond the schema: of several members, of any text, of a body and its headers.
_RULES = (
    *("Value error, ", "a string holds a NUL", "a job on a source needs", "a file of vectors comes with"),
    "the body is empty",
)

_ENOUGH_MS = 60_000

# A red pixel, and a green one.
_PICTURES = [
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC",
    "data:image/gif;base64,R0lGODdhAQABAIEAAAD/AAAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw==",
]
_TAGS = r'(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*'
# Of headers with a pattern, schemathesis makes letters and digits only; with a format, what it is told to.
schemathesis.openapi.format("entity-tags", st.just("*") | st.from_regex(_TAGS, fullmatch=True))

schemathesis.openapi.format(
    "image", st.sampled_from(_PICTURES) | st.binary(max_size=40).map(lambda data: b64encode(data).decode())
)

_scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8)
_ids = st.sampled_from(["sku-1", "sku-2", "sku-77"])
_spaces = st.sampled_from(["fake-000000000000", "other-000000000000", ""])
schemathesis.openapi.format("embedding-space", _spaces)
_numbers = st.lists(st.floats(-2, 2), min_size=16, max_size=17) | st.sampled_from(["", "AAAA", "AACAPw=="])
_parts = st.fixed_dictionaries({"type": st.just("text"), "text": st.sampled_from(["red", ""])}) | st.builds(
    lambda picture: {"type": "image_base64", "image_base64": picture}, st.sampled_from(_PICTURES)
)
_items = st.fixed_dictionaries(
    {"id": _ids},
    optional={
        "text": st.sampled_from(["red", "a blue boot", ""]),
        "image": st.sampled_from(_PICTURES),
        "content": st.lists(_parts, max_size=4),
        "vector": _numbers,
        "embedding_space": _spaces,
        "modality": st.sampled_from(["text", "image", "mixed"]),
        "version": st.text(max_size=4),
        "metadata": st.dictionaries(st.text(max_size=4), _scalars, max_size=3),
    },
)
_lines = st.one_of(
    st.fixed_dictionaries(
        {"op": st.just("upsert"), "item": _items},
        optional={
            "custom_id": st.text(),
            "mode": st.sampled_from(["upsert", "insert_only", "update_only"]),
        },
    ),
    st.fixed_dictionaries({"op": st.just("delete"), "id": _ids}),
    st.dictionaries(st.text(max_size=4), _scalars, max_size=3),
).map(lambda line: json.dumps(line).encode())
schemathesis.openapi.media_type(
    "application/x-ndjson",
    st.lists(_lines | st.binary(min_size=1, max_size=20), min_size=1, max_size=6).map(b"\n".join),
)


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Any) -> None:
    """Leave out the examples of lines: beside a strategy of bytes, schemathesis cannot send text."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            content.get("application/x-ndjson", {}).pop("example", None)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Keep a failure, unless it is a valid body that was refused for what its schema cannot say.

    That is a code of its own, such as image_undecodable, or a rule about several members. Whatever is
    refused as invalid_request for a type, a limit or a pattern is a schema that says too little. Forms are
    described in outline only: which fields one has depends on its files.
    """
    if not isinstance(failure, RejectedPositiveData):
        return True
    if case.media_type == "multipart/form-data":
        return False
    problem = response.json()
    findings = problem.get("errors") or [{"detail": problem["detail"]}]
    return problem["code"] == "invalid_request" and not all(
        finding["detail"].startswith(_RULES) for finding in findings
    )


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give every request that names a time enough of it: what a busy machine cannot do in a millisecond is
    refused as it should be (504 deadline_passed), and tells nothing of the request."""
    body = case.body
    given_ms = body.get("timeout_ms") if isinstance(body, dict) else None
    if isinstance(given_ms, int) and 1 <= given_ms < _ENOUGH_MS and given_ms is not True:
        case.body = {**body, "timeout_ms": _ENOUGH_MS}
