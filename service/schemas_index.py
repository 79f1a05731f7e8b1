"""Indexes as JSON."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from service.json_schema import whole
from service.schemas import Strict, example
from service.tokens import write_token

if TYPE_CHECKING:  # clients have no use for what this brings
    from service.index_desk import Audit, State

_GATE: dict[str, Any] = {
    "published": 41,
    "refused": 1,
    "refused_by": {"recall": 1},
    "at": 1_790_816_400.0,
    "last_generation": 42,
    "last_published": False,
    "last_reason": "recall@10 of text queries is 0.710 < 0.950",
    "last_seconds": 61.4,
}
_RECALL: dict[str, Any] = {
    "k": 10,
    "query": "text",
    "target": "any",
    "selectivity": "all",
    "recall": 0.991,
    "samples": 412,
}
_INDEX: dict[str, Any] = {
    "collection": "shop",
    "generation": 41,
    "covers_token": "wt_00000184d0",
    "items": 120_431,
    "type": "HNSW32,Flat",
    "tuning": {"ef": 64},
    "rows": 120_000,
    "dead": 210,
    "size_bytes": 214_000_000,
    "built_at": 1_790_812_800.0,
    "build_seconds": 61.4,
    "recall_at_10": {"text": 0.988, "image": 0.995},
    "delta": 655,
    "hidden": 224,
    "oldest_unindexed_at": 1_790_816_390.0,
    "generations": [41, 40],
    "held": False,
    "building": False,
    "problem": None,
    "recall": [_RECALL],
    "gate": _GATE,
}


class RebuildRequest(Strict):
    """How to build."""

    model_config = example(full=True)

    full: bool = Field(False, description="from the start, even where adding the newer items would do")


class ReembedRequest(Strict):
    """What becomes of items that cannot be embedded."""

    model_config = example(drop_unreadable=False)

    drop_unreadable: bool = Field(
        False,
        description="delete items that cannot be embedded, when the collection moves; else it does not move "
        "while there are any",
    )


class RollbackRequest(Strict):
    """Where to go back to."""

    model_config = example(generation=40)

    generation: Annotated[int, Field(ge=1, le=10**12), whole] | None = Field(
        None, description="one of the generations; absent: the newest before the current one"
    )


class DuplicatesRequest(Strict):
    """What counts as a duplicate, and among which items."""

    model_config = example(threshold=0.98)

    threshold: float = Field(0.98, ge=0, le=1, description="the cosine from which on two are the same")
    filter: dict[str, Any] | None = Field(None, description="only items that pass it, as in a search")


class RecallReply(BaseModel):
    """The recall of the last 200 sampled searches of a kind."""

    k: int = Field(description="so many of the nearest")
    query: str = Field(description="what was looked for: text, image, item, vector or mixed")
    target: str = Field(description="what was to be found: any, image or text")
    selectivity: str = Field(description="the least share of items that passed the filter; all: no filter")
    recall: float = Field(description="the share of the true nearest that were found")
    samples: int = Field(description="how many were measured since this process started")


class GateReply(BaseModel):
    """What the gate let through, and what became of the last generation."""

    published: int = Field(description="generations that passed")
    refused: int = Field(description="generations that did not")
    refused_by: dict[str, int] = Field(
        description=(
            "by what was wrong: digest (not the catalog's vectors), recall, self_hits, not_embedded, "
            "log_damaged, unreadable (files), disk, memory, failed"
        )
    )
    at: float = Field(description="when the last one was decided on, seconds since the epoch")
    last_generation: int = Field(description="its number")
    last_published: bool = Field(description="whether it passed")
    last_reason: str = Field(description="why it was refused; why it was due, if it passed")
    last_seconds: float = Field(description="how long it took")


class IndexReply(BaseModel):
    """An index as this process searches it: a snapshot, and the writes after it. Times are in seconds since
    the epoch."""

    model_config = example(**_INDEX)

    collection: str = Field(description="whose it is")
    generation: int = Field(description="of the snapshot; 0 before the first")
    covers_token: str = Field(description="every write up to this token is found")
    items: int = Field(description="how many can be found")
    type: str | None = Field(description="the snapshot's FAISS factory string")
    tuning: dict[str, int] = Field(description='what effort "auto" stands for')
    rows: int = Field(description="of the snapshot")
    dead: int = Field(description="of these, rows of no item since it was built; more make a full build due")
    size_bytes: int = Field(description="of its files")
    built_at: float | None = Field(description="when it was built")
    build_seconds: float | None = Field(description="how long that took")
    recall_at_10: dict[str, float] = Field(description="as the gate measured it, by kind of query")
    delta: int = Field(description="items found beside the snapshot, written after it")
    hidden: int = Field(description="rows of the snapshot that are of no item any more, dead ones included")
    oldest_unindexed_at: float | None = Field(description="when the oldest write after the snapshot came")
    generations: list[int] = Field(description="that can serve, the current one first")
    held: bool = Field(description="a rollback stands: nothing is rebuilt until somebody asks")
    building: bool = Field(description="a newer generation is being built")
    problem: str | None = Field(
        description="why the current generation does not serve, and an older one does"
    )
    recall: list[RecallReply] = Field(description="as sampled from real searches of this process")
    gate: GateReply | None = Field(description="null before the first rebuild by a worker")

    @classmethod
    def of(cls, state: "State") -> "IndexReply":
        """As clients see it."""
        view, gate = state.view, state.gate
        manifest = view.snapshot.manifest if view.snapshot else None
        return cls(
            collection=view.collection.name,
            generation=view.generation,
            covers_token=write_token(view.watermark),
            items=view.count,
            type=manifest and manifest.factory,
            tuning=dict(manifest.tuning) if manifest else {},
            rows=manifest.count if manifest else 0,
            dead=manifest.dead if manifest else 0,
            size_bytes=state.size_bytes,
            built_at=manifest and manifest.built_at,
            build_seconds=manifest and round(manifest.seconds, 3),
            recall_at_10=dict(manifest.recall_at_10) if manifest else {},
            delta=view.tail.count,
            hidden=view.hidden_count,
            oldest_unindexed_at=state.oldest_unindexed_at,
            generations=state.generations,
            held=state.held,
            building=state.building,
            problem=state.problem,
            recall=[
                RecallReply(
                    k=10,
                    query=entry.query,
                    target=entry.target,
                    selectivity=entry.selectivity,
                    recall=round(entry.recall, 4),
                    samples=entry.samples,
                )
                for entry in state.recall
            ],
            gate=gate
            and GateReply(
                published=gate.published,
                refused=gate.refused,
                refused_by=gate.refused_by,
                at=gate.at,
                last_generation=gate.last.generation,
                last_published=gate.last.published,
                last_reason=gate.last.reason,
                last_seconds=round(gate.last.seconds, 3),
            ),
        )


class AuditReply(BaseModel):
    """Digests of one moment, as 16 hex digits: catalog = snapshot - hidden + tail, or something is lost."""

    model_config = example(
        collection="shop",
        generation=41,
        covers_token="wt_00000184d0",
        items=120_431,
        searchable=120_431,
        catalog_digest="9c1185a5c5e9fc54",
        snapshot_digest="6b86b273ff34fce1",
        hidden_digest="0000000000000000",
        tail_digest="310a11cfc6b50373",
        equal=True,
        problems=[],
    )

    collection: str = Field(description="what was audited")
    generation: int = Field(description="of the snapshot that a process serves which starts now")
    covers_token: str = Field(description="the moment: every write up to this token")
    items: int = Field(description="how many there are")
    searchable: int = Field(description="how many can be found")
    catalog_digest: str = Field(description="of what was written")
    snapshot_digest: str = Field(description="of all rows of the snapshot")
    hidden_digest: str = Field(description="of those that are of no item any more")
    tail_digest: str = Field(description="of what was written after the snapshot")
    equal: bool = Field(description="nothing is wrong")
    problems: list[str] = Field(description="what is")

    @classmethod
    def of(cls, audit: "Audit") -> "AuditReply":
        """As clients see it."""
        members = {name: getattr(audit, name) for name in cls.model_fields if name != "covers_token"}
        return cls(**members, covers_token=write_token(audit.watermark))
