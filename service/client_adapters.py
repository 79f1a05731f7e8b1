"""The client's calls about adapters: learned from pairs, tried, promoted, rolled back."""

from collections.abc import Iterable
from urllib.parse import urlencode

from service.schemas_adapters import AdapterList, AdapterReply
from service.schemas_jobs import JobReply
from service.transport import Transport, given, path_of

Pairs = Iterable[tuple[str, str]]  # of a query and the id of the item that answers it
_UNDER = "/v1/adapters"


class AdapterCalls(Transport):
    """An adapter is called by its id, which the result of the job tells that has learned it."""

    def learn_adapter(
        self, collection: str, pairs: Pairs, *, golden: Pairs = (), name: str | None = None
    ) -> JobReply:
        """Have an adapter learned from pairs that its queries' items answer; the job."""
        body = given(collection=collection, pairs=_pairs(pairs), golden=_pairs(golden), name=name)
        return self._call("POST", _UNDER, JobReply, body)

    def adapters(self, collection: str | None = None, *, limit: int = 100, cursor: str = "") -> AdapterList:
        """A page of adapters, the newest first."""
        query = given(collection=collection, limit=limit, cursor=cursor)
        return self._call("GET", f"{_UNDER}?{urlencode(query)}", AdapterList)

    def adapter(self, id: str) -> AdapterReply:
        """An adapter, and what the gate said of it."""
        return self._call("GET", path_of(id, under=_UNDER), AdapterReply)

    def promote_adapter(self, id: str) -> AdapterReply:
        """Let it answer the searches of its collection."""
        return self._call("POST", path_of(id, "promote", under=_UNDER), AdapterReply)

    def roll_back_adapter(self, id: str) -> AdapterReply:
        """Take it out of service; the one before it answers again."""
        return self._call("POST", path_of(id, "rollback", under=_UNDER), AdapterReply)

    def try_adapter(self, id: str, share: float) -> AdapterReply:
        """Let it answer this share of the searches, from 0 to 1."""
        return self._call("PUT", path_of(id, "traffic", under=_UNDER), AdapterReply, {"share": share})

    def delete_adapter(self, id: str) -> None:
        """Forget one that does not serve."""
        self.send("DELETE", path_of(id, under=_UNDER), None)


def _pairs(pairs: Pairs) -> list[dict[str, str]]:
    return [{"query": query, "item": item} for query, item in pairs]
