"""Kinds of problems: one table from exception to status and code."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import ClientDisconnect

from index.adapters import AdapterNotFound, AdapterRefused, AdapterStateConflict
from index.aliases import AliasConflict, AliasNotFound
from index.catalog import (
    CollectionFull,
    CollectionNotFound,
    ConditionFailed,
    EncoderMismatch,
    InvalidItem,
    ItemNotFound,
    StorageFull,
    StorageUnavailable,
)
from index.engines.cluster import ClusterUnavailable
from index.filters import InvalidFilter
from index.jobs import JobNotFound, JobStateConflict
from index.keys import KeyNotFound
from index.replies import KeyReused, NotAnsweredYet, ReplyNotKept
from models.preprocess import EmptyText, ImageTooLarge, InvalidText, UnreadableImage, UnsupportedImageFormat
from service.adapters import AdapterUnusable
from service.admission import Overloaded
from service.auth import (
    CollectionForbidden,
    KeyMissing,
    KeyRefused,
    ScopeInsufficient,
)
from service.batcher import EncoderBroken, EncodingFailed
from service.bodies import BodyTooLarge, UnsupportedMediaType
from service.browsers import HostNotAllowed, OriginNotAllowed
from service.bulk_lines import (
    SourceUnreadable,
)
from service.bulk_sources import SourceChanged, SourceNotFound, SourcesDisabled
from service.caller import DeadlinePassed
from service.classify import LabelSetUnusable, NothingToChoose
from service.conditional import NotOneItem
from service.drafts import ItemExists, MetadataMismatch, MetadataTooLarge, NothingToRead, VersionConflict
from service.embedder import DimensionsUnsupported, RerankUnsupported, TooManyItems
from service.given import VectorInvalid
from service.images import (
    DiskFull,
    DiskUnavailable,
    ImageNotFound,
    InvalidBase64,
    TooManyBytes,
    UploadMissing,
)
from service.index_desk import GenerationUnusable
from service.intake import BodyTooSlow, ShuttingDown, TooManyBodies
from service.paging import CursorExpired, CursorInvalid
from service.parsing import InvalidBody, InvalidJson
from service.query_terms import QueryCancelsOut
from service.quota import RateLimited
from service.reading import NotReadWhole, TextTooLong, TooManyPictures, TooManyPixels
from service.relevance import RelevanceUnknown
from service.reranker import NotOneDocument
from service.shelf import SnapshotExists, SnapshotNotFound
from service.signed_tokens import TokenRefused
from service.snapshot_desk import CollectionExists, SnapshotDamaged
from service.spool import SpoolFull, SpoolMissing
from service.tokens import TokenInvalid, WriteNotCovered
from service.urls import UrlFetchDisabled, UrlInvalid, UrlNotAllowed, UrlUnreachable


class ModelNotFound(LookupError):
    """A request names a model that this server does not run."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its status, its stable code, and its title, the same at every occurrence."""

    status: int
    code: str
    title: str


TABLE: dict[type[Exception], Kind] = {
    InvalidJson: Kind(400, "invalid_json", "The body is not valid JSON"),
    ClientDisconnect: Kind(400, "client_disconnected", "The client left before the body was complete"),
    KeyMissing: Kind(401, "key_missing", "An API key is needed"),
    KeyRefused: Kind(401, "key_invalid", "The API key is not valid"),
    TokenRefused: Kind(401, "token_invalid", "The token is not valid"),
    HostNotAllowed: Kind(403, "host_not_allowed", "The server is not known by this name"),
    OriginNotAllowed: Kind(403, "origin_not_allowed", "Pages of this origin may not call the server"),
    ScopeInsufficient: Kind(403, "scope_insufficient", "The API key's scope does not include this"),
    CollectionForbidden: Kind(403, "collection_forbidden", "The API key is limited to other collections"),
    KeyNotFound: Kind(404, "key_not_found", "No such API key"),
    CollectionNotFound: Kind(404, "collection_not_found", "No such collection"),
    AdapterNotFound: Kind(404, "adapter_not_found", "No such adapter"),
    AliasNotFound: Kind(404, "alias_not_found", "No such alias"),
    ItemNotFound: Kind(404, "item_not_found", "No such item"),
    ImageNotFound: Kind(404, "image_not_found", "No such picture"),
    SnapshotNotFound: Kind(404, "snapshot_not_found", "No such snapshot"),
    JobNotFound: Kind(404, "job_not_found", "No such job"),
    SpoolMissing: Kind(404, "job_lines_missing", "The lines of the job are gone"),
    SourceNotFound: Kind(404, "source_not_found", "No such file among the sources"),
    ModelNotFound: Kind(404, "model_not_found", "No such model"),
    BodyTooSlow: Kind(408, "body_too_slow", "The body did not come in time"),
    EncoderMismatch: Kind(409, "encoder_mismatch", "The collection was embedded by another encoder"),
    AdapterRefused: Kind(409, "adapter_refused", "The gate has refused the adapter"),
    AdapterStateConflict: Kind(409, "adapter_state_conflict", "The adapter's state does not allow it"),
    AdapterUnusable: Kind(409, "adapter_unusable", "The adapter does not fit the collection"),
    ItemExists: Kind(409, "item_exists", "There is an item of this id"),
    VersionConflict: Kind(409, "version_conflict", "The item has another version"),
    CollectionFull: Kind(409, "collection_full", "The collection has as many items as it may"),
    AliasConflict: Kind(409, "alias_conflict", "The name is a collection's or an alias's"),
    CollectionExists: Kind(409, "collection_exists", "There is a collection of this name"),
    SnapshotExists: Kind(409, "snapshot_exists", "There is a snapshot of this name"),
    SnapshotDamaged: Kind(409, "snapshot_damaged", "The snapshot cannot be restored"),
    GenerationUnusable: Kind(409, "generation_unusable", "The generation cannot serve"),
    CursorExpired: Kind(409, "cursor_expired", "The order has changed since the first page"),
    NotAnsweredYet: Kind(409, "idempotency_key_in_use", "The same request is still running"),
    ReplyNotKept: Kind(409, "idempotency_reply_not_kept", "The same request was answered, with a secret"),
    SourceChanged: Kind(409, "source_changed", "The source has changed"),
    JobStateConflict: Kind(409, "job_state_conflict", "The job's state does not allow it"),
    ConditionFailed: Kind(412, "precondition_failed", "What the request expects is not so"),
    BodyTooLarge: Kind(413, "body_too_large", "The body is too large"),
    TooManyItems: Kind(413, "too_many_items", "Too many items in one request"),
    TooManyPictures: Kind(413, "too_many_pictures", "Too many pictures in one document"),
    TooManyBytes: Kind(413, "image_too_many_bytes", "The picture has too many bytes"),
    ImageTooLarge: Kind(413, "image_too_many_pixels", "The picture has too many pixels"),
    TooManyPixels: Kind(413, "too_many_pixels", "The pictures of the request have too many pixels"),
    TextTooLong: Kind(413, "text_too_long", "The text is too long"),
    MetadataTooLarge: Kind(413, "metadata_too_large", "The metadata is too large"),
    UnsupportedMediaType: Kind(415, "unsupported_media_type", "The body's media type is not supported"),
    UnsupportedImageFormat: Kind(415, "image_format_unsupported", "The picture's format is not supported"),
    UnreadableImage: Kind(422, "image_undecodable", "The picture cannot be decoded"),
    InvalidBase64: Kind(422, "image_base64_invalid", "The picture is not valid base64"),
    UploadMissing: Kind(422, "upload_missing", "A named multipart part is missing"),
    UrlFetchDisabled: Kind(422, "url_fetch_disabled", "This server does not fetch pictures"),
    SourcesDisabled: Kind(422, "sources_disabled", "This server reads no files"),
    SourceUnreadable: Kind(422, "source_unreadable", "The source cannot be read"),
    UrlInvalid: Kind(422, "url_invalid", "The URL cannot be fetched from"),
    UrlNotAllowed: Kind(422, "url_not_allowed", "The URL leads where this server does not fetch from"),
    UrlUnreachable: Kind(422, "url_unreachable", "No picture came from the URL"),
    EmptyText: Kind(422, "text_empty", "The text is empty"),
    InvalidText: Kind(422, "text_invalid", "The text is not valid Unicode"),
    NotReadWhole: Kind(422, "text_too_long_for_model", "The encoder does not read all of the text"),
    VectorInvalid: Kind(422, "vector_invalid", "The vector cannot be compared"),
    MetadataMismatch: Kind(422, "metadata_type_mismatch", "The collection fixes another type"),
    NothingToRead: Kind(422, "item_without_content", "The item has a vector and no content"),
    InvalidItem: Kind(422, "item_invalid", "The item cannot be kept"),
    InvalidFilter: Kind(422, "filter_invalid", "The filter is not valid"),
    QueryCancelsOut: Kind(422, "query_cancels_out", "The query's terms cancel out"),
    CursorInvalid: Kind(422, "cursor_invalid", "The cursor is not valid"),
    TokenInvalid: Kind(422, "write_token_invalid", "The write token is not valid"),
    NotOneDocument: Kind(422, "rerank_needs_one_document", "Reranking needs a query of one document"),
    DimensionsUnsupported: Kind(422, "dimensions_unsupported", "The encoder's vectors cannot be shortened"),
    RelevanceUnknown: Kind(422, "relevance_unknown", "Nobody has measured what the scores say of relevance"),
    RerankUnsupported: Kind(422, "rerank_unsupported", "The encoder cannot compare two documents"),
    LabelSetUnusable: Kind(422, "label_set_unusable", "The collection cannot be a label set"),
    NothingToChoose: Kind(422, "nothing_to_choose", "One label leaves nothing to choose"),
    KeyReused: Kind(422, "idempotency_key_reused", "The Idempotency-Key names another request"),
    NotOneItem: Kind(422, "precondition_needs_one_item", "A condition needs a request of one item"),
    InvalidBody: Kind(422, "invalid_request", "The request is not valid"),
    EncodingFailed: Kind(422, "encoding_failed", "The encoder could not process an input"),
    Overloaded: Kind(429, "queue_full", "Too many requests"),
    RateLimited: Kind(429, "rate_limited", "The API key has used up its requests"),
    TooManyBodies: Kind(503, "bodies_full", "The room for request bodies is used up"),
    ShuttingDown: Kind(503, "shutting_down", "The service ends"),
    EncoderBroken: Kind(503, "encoder_broken", "The encoder does not work"),
    StorageUnavailable: Kind(503, "storage_unavailable", "The catalog cannot be used"),
    DiskUnavailable: Kind(503, "storage_unavailable", "The catalog cannot be used"),
    ClusterUnavailable: Kind(503, "index_unavailable", "The index cannot be searched"),
    WriteNotCovered: Kind(504, "write_not_covered", "The write cannot be found here yet"),
    DeadlinePassed: Kind(504, "deadline_passed", "The time that the request gave is over"),
    StorageFull: Kind(507, "storage_full", "The disk is full"),
    DiskFull: Kind(507, "storage_full", "The disk is full"),
    SpoolFull: Kind(507, "spool_full", "The room for bulk jobs is used up"),
}
INTERNAL = Kind(500, "internal_error", "Something went wrong here")


def http_kind(status: HTTPStatus) -> Kind:
    """The kind of a refusal that the framework made, such as 405."""
    return Kind(status.value, status.phrase.lower().replace(" ", "_"), status.phrase)


def kind_of(error: Exception) -> Kind:
    """The table's entry for an exception, found through its ancestry."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), INTERNAL)
