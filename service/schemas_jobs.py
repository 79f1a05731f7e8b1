"""Jobs as JSON."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from index.records import JobState
from service.json_schema import any_of, given
from service.schemas import SPACE, EmbeddingSpace, ItemId, Problem, Strict, example
from service.schemas_items import MODE, Mode

if TYPE_CHECKING:  # clients have no use for what these bring
    from service.jobs import Failure, Job

_EXAMPLE: dict[str, Any] = {
    "id": "job_019aac3d1f5e8c0d6f2b7a91",
    "type": "bulk",
    "state": "running",
    "collection": "shop",
    "counts": {"total": 1_200_000, "done": 431_002, "failed": 17, "skipped": 9120},
    "rate_per_second": 612.4,
    "eta_seconds": 1240,
    "checkpoint": {"line": 440_139, "offset": 90_182_002},
    "created_at": 1_790_812_800.0,
    "started_at": 1_790_812_801.5,
    "ended_at": None,
    "problem": None,
    "errors_url": "/v1/jobs/job_019aac3d1f5e8c0d6f2b7a91/errors",
    "results_url": "/v1/jobs/job_019aac3d1f5e8c0d6f2b7a91/results",
}


class BulkLine(Strict):
    """One line of a bulk job."""

    op: Literal["upsert", "delete"] = Field("upsert", description="what to do")
    custom_id: str | None = Field(None, max_length=512, description="comes back with the line's error")
    item: dict[str, Any] | None = Field(None, description="of an upsert: an ItemRequest")
    mode: Mode = Field("upsert", description=f"of an upsert. {MODE}")
    id: ItemId | None = Field(None, description="of a delete")

    @model_validator(mode="after")
    def _matching(self) -> "BulkLine":
        if self.op == "upsert" and (self.item is None or self.id is not None):
            raise ValueError("an upsert has an item and no id of its own")
        if self.op == "delete" and (self.id is None or self.item is not None):
            raise ValueError("a delete has an id and no item")
        return self


SourceFormat = Literal["ndjson", "npy", "parquet", "url_list", "webdataset"]


class BulkSource(Strict):
    """A file on the server that is read where it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"format": {"const": "npy"}}, "allOf": [given("embedding_space")]},
                {
                    "properties": {"format": {"not": {"const": "npy"}}},
                    "not": any_of("embedding_space", "items_uri", "modality"),
                },
            ]
        }
    )

    uri: str = Field(
        min_length=1,
        max_length=1024,
        description="its path in bulk_source_root",
        examples=["2026/shop.parquet"],
    )
    format: SourceFormat = Field(
        description="ndjson: the lines of a bulk request. webdataset: a tar; the picture, text and json of a "
        "sample make an item. parquet: columns id, text, image and metadata; others become metadata. "
        "url_list: the URL of a picture on each line, which is the id as well, if this server fetches. npy: "
        "an array of NumPy's, of floats, whose rows are ready vectors"
    )
    items_uri: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="of npy: a file with the ItemRequest of each row, one to a line, without a vector; "
        "absent: ids are the name of the array and the number of the row",
        examples=["2026/shop.ndjson"],
    )
    embedding_space: EmbeddingSpace | None = Field(None, description=f"of npy: {SPACE}")
    modality: Literal["text", "image", "mixed"] | None = Field(
        None, description="of npy: what vectors without text and picture were made of; image if absent"
    )

    @model_validator(mode="after")
    def _of_vectors(self) -> "BulkSource":
        if (self.format == "npy") != (self.embedding_space is not None):
            raise ValueError("npy, and no other format, comes with its embedding_space")
        if self.format != "npy" and (self.items_uri is not None or self.modality is not None):
            raise ValueError("items_uri and modality are of npy")
        return self


class BulkRequest(Strict):
    """Instead of lines, where they are."""

    model_config = example(source={"uri": "2026/shop.parquet", "format": "parquet"})

    source: BulkSource = Field(description="what to read")


class JobCounts(BaseModel):
    """Lines, those left out that say nothing; of jobs other than bulk, steps.

    In the end done, failed and skipped make up the total."""

    total: int = Field(description="lines in all")
    done: int = Field(description="items written or deleted")
    failed: int = Field(description="lines of which errors_url tells what is wrong")
    skipped: int = Field(description="items that are there unchanged, and deletes of what is not there")


class Checkpoint(BaseModel):
    """What is committed with all that comes before: from here a job goes on, whatever happens."""

    line: int = Field(description="the last one, counted from 1; 0 before the first")
    offset: int = Field(description="in bytes")


class JobReply(BaseModel):
    """A job as it stands. Times are in seconds since the epoch."""

    model_config = example(**_EXAMPLE)

    id: str = Field(description="names it at /v1/jobs/{job}")
    type: str = Field(
        description="what it does: bulk, rebuild, evaluate, duplicates, snapshot, restore, reembed or adapt"
    )
    state: JobState = Field(
        description="succeeded, failed and cancelled are ends; a failed one can be resumed"
    )
    collection: str = Field(description="whose items it writes")
    counts: JobCounts = Field(description="how far it is")
    rate_per_second: float | None = Field(description="of lines, while it runs")
    eta_seconds: int | None = Field(description="until it ends, at this rate")
    checkpoint: Checkpoint = Field(description="how far its effect is durable")
    created_at: float = Field(description="when its lines were all there")
    started_at: float | None = Field(description="when its first line was begun")
    ended_at: float | None = Field(description="when it came to its end")
    problem: dict[str, Any] | None = Field(description="why the whole job failed")
    results_url: str = Field(description="where what it found is told, relative to the server")
    errors_url: str = Field(description="where its failed lines are told, relative to the server")

    @classmethod
    def of(cls, job: "Job") -> "JobReply":
        """As clients see it."""
        running = job.state == "running" and job.rate is not None and job.rate > 0
        return cls(
            id=job.id,
            type=job.type,
            state=job.state,
            collection=job.name,
            counts=JobCounts(total=job.total, done=job.done, failed=job.failed, skipped=job.skipped),
            rate_per_second=round(job.rate, 1) if running and job.rate else None,
            eta_seconds=round(job.left / job.rate) if running and job.rate else None,
            checkpoint=Checkpoint(line=job.at_line, offset=job.at_byte),
            created_at=job.created_at,
            started_at=job.started_at,
            ended_at=job.ended_at,
            problem=job.problem,
            errors_url=f"{url_of(job.id)}/errors",
            results_url=f"{url_of(job.id)}/results",
        )


class JobList(BaseModel):
    """A page of jobs."""

    model_config = example(jobs=[_EXAMPLE], next_cursor=_EXAMPLE["id"])

    jobs: list[JobReply] = Field(description="the newest first")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")


class LineError(BaseModel):
    """A line that failed."""

    model_config = example(
        line=7,
        custom_id="line-7",
        problem={
            "type": "/problems/image_undecodable",
            "title": "The picture cannot be decoded",
            "status": 422,
            "detail": "The picture is cut off.",
            "code": "image_undecodable",
        },
    )

    line: int = Field(description="counted from 1")
    custom_id: str | None = Field(description="as the line said it")
    problem: Problem = Field(description="why it failed")

    @classmethod
    def of(cls, failure: "Failure") -> "LineError":
        """As clients see it."""
        return cls.model_validate(vars(failure))


def url_of(job: str) -> str:
    """Where a job is looked at."""
    return f"/v1/jobs/{job}"
