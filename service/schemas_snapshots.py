"""Snapshots of collections as JSON."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from service.schemas import COLLECTION_PATTERN, Strict, example

if TYPE_CHECKING:  # clients have no use for what this brings
    from service.shelf import Entry

SNAPSHOT_PATTERN = COLLECTION_PATTERN
_SNAPSHOT: dict[str, Any] = {
    "name": "before-the-sale",
    "collection": "shop",
    "state": "complete",
    "size_bytes": 1_482_113_024,
    "created_at": 1_790_812_800.0,
    "items": 120_431,
    "pictures": 98_002,
    "embedding_space": "momo-mini-0123456789ab",
    "problem": None,
}


class SnapshotRequest(Strict):
    """What it is to be called."""

    model_config = example(name="before-the-sale")

    name: str | None = Field(
        None, pattern=SNAPSHOT_PATTERN, description="its name; absent: the time, and six characters"
    )


class RestoreRequest(Strict):
    """Where to."""

    model_config = example(**{"as": "shop-as-it-was"})

    as_: str | None = Field(
        None,
        alias="as",
        pattern=COLLECTION_PATTERN,
        description="the name of a new collection; absent: its own, and the collection of that is replaced",
    )


class SnapshotReply(BaseModel):
    """An archive of one collection: its settings, items, vectors and pictures as they stood at one moment,
    and an index if there was one."""

    model_config = example(**_SNAPSHOT)

    name: str = Field(description="names it at …/snapshots/{snapshot}")
    collection: str = Field(description="whose it is")
    state: Literal["complete", "verified", "damaged"] = Field(
        description="verified: all of it was read just now; damaged: it cannot be restored"
    )
    size_bytes: int = Field(description="of its file")
    created_at: float | None = Field(description="the moment that it holds, in seconds since the epoch")
    items: int | None = Field(description="how many it holds")
    pictures: int | None = Field(description="how many it holds")
    embedding_space: str | None = Field(description="whose vectors it holds: only that encoder restores it")
    problem: str | None = Field(description="what is wrong with it")

    @classmethod
    def of(cls, collection: str, entry: "Entry") -> "SnapshotReply":
        """As clients see it."""
        contents = entry.contents
        spaces = [held.encoder_id for held in contents.collections] if contents else []
        return cls(
            name=entry.name,
            collection=collection,
            state=entry.state,
            size_bytes=entry.size_bytes,
            created_at=contents and contents.created_at,
            items=entry.items,
            pictures=contents and contents.pictures,
            embedding_space=spaces[0] if spaces else None,
            problem=entry.problem,
        )


class SnapshotList(BaseModel):
    """All archives of a collection."""

    model_config = example(snapshots=[_SNAPSHOT], size_bytes=_SNAPSHOT["size_bytes"])

    snapshots: list[SnapshotReply] = Field(description="the newest first")
    size_bytes: int = Field(description="of all their files")

    @classmethod
    def of(cls, collection: str, entries: "list[Entry]") -> "SnapshotList":
        """As clients see it."""
        replies = [SnapshotReply.of(collection, entry) for entry in entries]
        return cls(snapshots=replies, size_bytes=sum(entry.size_bytes for entry in entries))
