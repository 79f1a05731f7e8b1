"""The client's calls about jobs: items and deletes of any number in one, and how far it is."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from index.records import JobState
from service.schemas_jobs import JobList, JobReply, LineError, SourceFormat
from service.transport import Transport, json_of, path_of

_IN_MEMORY_BYTES = 8_000_000  # of lines to send; more of them wait in a temporary file
_LINES = "application/x-ndjson"
_ENDS = ("succeeded", "failed", "cancelled")


class JobCalls(Transport):
    """Bulk writes become jobs of the server, which goes on with them whatever becomes of the client."""

    def bulk(
        self, collection: str, items: Iterable[Mapping[str, Any]] = (), *, deletes: Iterable[str] = ()
    ) -> JobReply:
        """Hand over any number of items to write and ids to delete; the job that they are now.

        They are written to a file as they come, so that memory stays small and they can be sent again.
        """
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            for line in _lines(items, deletes):
                file.write(json_of(line).encode() + b"\n")
            if not file.tell():
                file.write(b"\n")  # nothing to do is a job too, but an empty body is taken for a mistake
            return JobReply.model_validate_json(
                self.send("POST", path_of(collection, "bulk"), file, media=_LINES)
            )

    def wait(
        self, job: str, *, progress: Callable[[JobReply], None] = lambda job: None, every_s: float = 1.0
    ) -> JobReply:
        """Ask how far a job is until it has ended, and call ``progress`` each time; how it ended.

        A paused job is waited for as well. ``counts`` and ``problem`` say what failed, ``job_errors`` why.
        """
        while True:
            state = self.job(job)
            progress(state)
            if state.state in _ENDS:
                return state
            self.sleep(every_s)

    def job(self, job: str) -> JobReply:
        """A job as it stands."""
        return self._call("GET", _of(job), JobReply)

    def jobs(self, *, state: JobState | None = None, limit: int = 100, cursor: str | None = None) -> JobList:
        """A page of jobs, the newest first."""
        asked = {"state": state, "limit": limit, "cursor": cursor}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._call("GET", f"/v1/jobs?{query}", JobList)

    def job_errors(self, job: str) -> list[LineError]:
        """The lines of a job that failed so far; ``custom_id`` is the item's id."""
        lines = self.send("GET", _of(job, "errors"), None).splitlines()
        return [LineError.model_validate(json.loads(line)) for line in lines]

    def bulk_source(self, /, collection: str, uri: str, format: SourceFormat, **vectors: str) -> JobReply:
        """A job on a file in the server's folder of sources; of npy with its embedding_space, and perhaps
        items_uri and modality."""
        source = {"uri": uri, "format": format, **vectors}
        return self._call("POST", path_of(collection, "bulk"), JobReply, {"source": source})

    def job_results(self, job: str) -> list[dict[str, Any]]:
        """What a job has found so far, such as duplicates."""
        return [json.loads(line) for line in self.send("GET", _of(job, "results"), None).splitlines()]

    def pause_job(self, job: str) -> JobReply:
        """Begin no more lines of a job until it is resumed."""
        return self._call("POST", _of(job, "pause"), JobReply)

    def resume_job(self, job: str) -> JobReply:
        """Go on with a job that is paused, or has failed as a whole."""
        return self._call("POST", _of(job, "resume"), JobReply)

    def cancel_job(self, job: str) -> JobReply:
        """End a job where it stands."""
        return self._call("POST", _of(job, "cancel"), JobReply)


def _lines(items: Iterable[Mapping[str, Any]], deletes: Iterable[str]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield {"op": "upsert", "custom_id": item.get("id"), "item": item}
    for item_id in deletes:
        yield {"op": "delete", "custom_id": item_id, "id": item_id}


def _of(job: str, *rest: str) -> str:
    return path_of(job, *rest, under="/v1/jobs")
