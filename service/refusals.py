"""Which problems a client may meet at each operation: told in the OpenAPI document, from the one table."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any

from service.errors import RETRIED
from service.kinds import INTERNAL, TABLE, Kind, http_kind

# What follows from the shape of an operation.
_KEYED = (
    *("key_missing", "key_invalid", "token_invalid", "scope_insufficient", "collection_forbidden"),
    "rate_limited",
    *("host_not_allowed", "origin_not_allowed", "storage_unavailable"),
)
_WITH_PARAMETER = {
    "collection": ("collection_not_found",),
    "item_id": ("item_not_found",),
    "job": ("job_not_found",),
    "snapshot": ("snapshot_not_found",),
    "model": ("model_not_found",),
    "adapter": ("adapter_not_found",),
    "prefix": ("key_not_found",),
    "If-Match": ("precondition_failed",),
    "Idempotency-Key": ("idempotency_key_in_use", "idempotency_key_reused", "storage_full"),
}
_WITH_BODY = (
    *("invalid_request", "client_disconnected", "body_too_large", "unsupported_media_type"),
    *("body_too_slow", "bodies_full", "shutting_down"),
)
_EMBEDDING = (
    *("image_too_many_bytes", "image_too_many_pixels", "image_format_unsupported", "image_undecodable"),
    *("image_base64_invalid", "upload_missing", "too_many_pictures", "too_many_pixels"),
    *("url_fetch_disabled", "url_invalid", "url_not_allowed", "url_unreachable", "too_many_items"),
    *("text_empty", "text_invalid", "text_too_long", "encoding_failed", "encoder_broken", "queue_full"),
)
_WRITING = (
    *("encoder_mismatch", "item_invalid", "metadata_too_large", "metadata_type_mismatch"),
    *("vector_invalid", "collection_full"),
)
_SEARCHING = (
    *("encoder_mismatch", "filter_invalid", "query_cancels_out", "cursor_expired", "cursor_invalid"),
    *("write_token_invalid", "write_not_covered", "index_unavailable"),
)
# What only the operation itself says.
_OWN = {
    "create_collection": (
        *("encoder_mismatch", "model_not_found", "alias_conflict", "dimensions_unsupported"),
    ),
    "delete_collection": ("alias_conflict",),
    "move_aliases": ("alias_conflict", "alias_not_found", "collection_not_found"),
    "put_items": (
        *(*_WRITING, "too_many_items", "precondition_needs_one_item", "spool_full"),
        *("item_exists", "item_not_found", "version_conflict"),
    ),
    "patch_item": (*_WRITING, "image_not_found"),
    "delete_item": ("encoder_mismatch",),
    "scroll_items": ("filter_invalid", "cursor_invalid"),
    "count_items": ("filter_invalid",),
    "facet_items": ("filter_invalid",),
    "delete_items": ("filter_invalid", "encoder_mismatch"),
    "get_image": ("image_not_found", "image_undecodable", "queue_full"),
    "bulk": (
        *("encoder_mismatch", "spool_full", "source_not_found", "source_unreadable", "sources_disabled"),
        *("source_changed", "idempotency_key_reused", "invalid_json"),
    ),
    "rebuild_index": ("encoder_mismatch",),
    "audit_index": ("index_unavailable",),
    "evaluate_index": ("encoder_mismatch",),
    "roll_back_index": ("generation_unusable",),
    "find_duplicates": ("encoder_mismatch", "filter_invalid"),
    "create_snapshot": ("snapshot_exists",),
    "restore_snapshot": ("snapshot_damaged", "encoder_mismatch", "collection_exists", "alias_conflict"),
    "create_adapter": ("collection_not_found", "encoder_mismatch"),
    "list_adapters": ("collection_not_found",),
    "delete_adapter": ("adapter_state_conflict",),
    "promote_adapter": ("adapter_refused", "adapter_state_conflict"),
    "roll_back_adapter": ("adapter_state_conflict",),
    "set_adapter_traffic": ("adapter_refused", "adapter_state_conflict"),
    "pause_job": ("job_state_conflict",),
    "resume_job": ("job_state_conflict", "job_lines_missing"),
    "cancel_job": ("job_state_conflict",),
    "search": (
        *(*_SEARCHING, "deadline_passed", "item_not_found", "image_not_found", "rerank_needs_one_document"),
        *("rerank_unsupported", "relevance_unknown", "vector_invalid", "item_without_content"),
        *("adapter_not_found", "adapter_unusable"),
    ),
    "search_batch": ("encoder_mismatch", "too_many_items"),
    "recommend": (*_SEARCHING, "deadline_passed", "item_not_found"),
    "embeddings": (
        "text_too_long_for_model",
        "model_not_found",
        "too_many_items",
        "deadline_passed",
        "dimensions_unsupported",
    ),
    "classify": (
        *("model_not_found", "too_many_items", "collection_not_found", "encoder_mismatch"),
        *("label_set_unusable", "nothing_to_choose", "deadline_passed"),
    ),
    "similarity": ("model_not_found", "too_many_items", "deadline_passed"),
    "explain": (
        "deadline_passed",
        "model_not_found",
        "too_many_items",
        "collection_not_found",
        "item_not_found",
        "item_without_content",
        "image_not_found",
    ),
    "rerank": ("deadline_passed", "model_not_found", "too_many_items", "rerank_unsupported"),
    "list_keys": ("key_not_found",),
    "create_key": ("idempotency_reply_not_kept",),
}
_BAD_FORM = http_kind(HTTPStatus.BAD_REQUEST)  # multipart whose parts cannot be told apart
_KINDS: dict[str, Kind] = {kind.code: kind for kind in (*TABLE.values(), INTERNAL, _BAD_FORM)}
_RETRY_AFTER = {
    "Retry-After": {"description": "in how many seconds to try again", "schema": {"type": "integer"}}
}


def describe(document: dict[str, Any]) -> None:
    """Make the refusals of each operation of an OpenAPI document those that it can give, with their codes."""
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            by_status = defaultdict[str, list[Kind]](list)
            for code in sorted(codes_of(operation)):
                by_status[str(_KINDS[code].status)].append(_KINDS[code])
            for status in [status for status, reply in responses.items() if _is_refusal(status, reply)]:
                del responses[status]
            for status, kinds in sorted(by_status.items()):
                responses.setdefault(status, _response(kinds))


def codes_of(operation: dict[str, Any]) -> set[str]:
    """The codes of an operation's problems, by its shape and by its operationId."""
    codes = {INTERNAL.code, *_OWN.get(operation["operationId"], ())}
    if "security" in operation:
        codes.update(_KEYED)
    for parameter in operation.get("parameters", []):
        codes.update(_WITH_PARAMETER.get(parameter["name"], ()), ("invalid_request",))
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        codes.update(_WITH_BODY)
    if "application/json" in content:
        codes.add("invalid_json")
    if "multipart/form-data" in content:
        codes.update(_EMBEDDING)
        codes.add(_BAD_FORM.code)
    return codes


def _is_refusal(status: str, reply: dict[str, Any]) -> bool:
    """Whether a reply is one of problem details; a server that is not ready says so in a shape of its own."""
    own = "application/json" in reply.get("content", {})
    return status == "422" or (int(status) >= 400 and not own)


def _response(kinds: list[Kind]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    examples = {kind.code: {"summary": kind.title, "value": _example(kind)} for kind in kinds}
    headers = {"headers": _RETRY_AFTER} if any(kind.code in RETRIED for kind in kinds) else {}
    return {
        **headers,
        "description": "; ".join(kind.title for kind in kinds),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }


def _example(kind: Kind) -> dict[str, Any]:
    return {
        "type": f"/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "detail": f"{kind.title}.",
    }
