"""The client's calls about what holds items: collections, aliases, indexes and keys."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from service.schemas_aliases import AliasList
from service.schemas_collections import CollectionList, CollectionReply
from service.schemas_index import AuditReply, IndexReply
from service.schemas_jobs import JobReply
from service.schemas_keys import KeyCreated, KeyList
from service.schemas_snapshots import SnapshotList, SnapshotReply
from service.transport import Transport, given, path_of


class AdminCalls(Transport):
    """What is settings here is a mapping as the API takes it."""

    # -- collections

    def create_collection(self, /, collection: str, **settings: Any) -> CollectionReply:
        """Make a collection, or find that it is there; ``settings`` are its index, schema and limits."""
        return self._call("PUT", path_of(collection), CollectionReply, settings)

    def patch_collection(self, /, collection: str, **changes: Any) -> CollectionReply:
        """Change settings of a collection: None removes, and what is absent stays."""
        return self._call("PATCH", path_of(collection), CollectionReply, changes)

    def collection(self, collection: str) -> CollectionReply:
        """A collection as it stands."""
        return self._call("GET", path_of(collection), CollectionReply)

    def collections(self, *, limit: int = 100, cursor: str = "") -> CollectionList:
        """A page of collections in order of name."""
        return self._call("GET", _page("/v1/collections", limit, cursor), CollectionList)

    def delete_collection(self, collection: str) -> None:
        """Remove a collection with all its items."""
        self.send("DELETE", path_of(collection), None)

    # -- aliases

    def aliases(self, *, limit: int = 100, cursor: str = "") -> AliasList:
        """A page of aliases in order of name."""
        return self._call("GET", _page("/v1/aliases", limit, cursor), AliasList)

    def move_aliases(self, create: Mapping[str, str] | None = None, delete: Sequence[str] = ()) -> None:
        """Let aliases stand for collections, as ``create`` says, and those of ``delete`` for none, all at
        once."""
        dropped = [{"delete": {"alias": alias}} for alias in delete]
        made = [{"create": {"alias": alias, "collection": name}} for alias, name in (create or {}).items()]
        self._post("/v1/aliases", {"actions": [*dropped, *made]})

    # -- the index of a collection

    def index_state(self, collection: str) -> IndexReply:
        """What serves, how far behind it is, and how well it finds."""
        return self._call("GET", path_of(collection, "index"), IndexReply)

    def audit_index(self, collection: str) -> AuditReply:
        """Whether what can be found is what was written."""
        return self._call("GET", path_of(collection, "index", "audit"), AuditReply)

    def rebuild_index(self, collection: str, *, full: bool = False) -> JobReply:
        """Have a newer generation built; the job."""
        return self._call("POST", path_of(collection, "index", "rebuild"), JobReply, {"full": full})

    def evaluate_index(self, collection: str) -> JobReply:
        """Have the recall of what serves measured; the job."""
        return self._call("POST", path_of(collection, "index", "evaluate"), JobReply)

    def roll_back_index(self, collection: str, generation: int | None = None) -> IndexReply:
        """Let an older generation serve, and hold it."""
        body = given(generation=generation)
        return self._call("POST", path_of(collection, "index", "rollback"), IndexReply, body)

    def reembed(self, collection: str, *, drop_unreadable: bool = False) -> JobReply:
        """Have every item embedded by the encoder that runs, and the collection moved to it; the job."""
        body = {"drop_unreadable": drop_unreadable}
        return self._call("POST", path_of(collection, "reembed"), JobReply, body)

    def find_duplicates(
        self, collection: str, *, threshold: float = 0.98, filter: Mapping[str, Any] | None = None
    ) -> JobReply:
        """Have items found that are nearly the same as an older one; the job."""
        body = {"threshold": threshold, **given(filter=filter)}
        return self._call("POST", path_of(collection, "duplicates"), JobReply, body)

    # -- snapshots of a collection

    def create_snapshot(self, collection: str, name: str | None = None) -> JobReply:
        """Have a collection archived, under this name or one that its result tells; the job."""
        return self._call("POST", path_of(collection, "snapshots"), JobReply, given(name=name))

    def snapshots(self, collection: str) -> SnapshotList:
        """All archives of a collection, the newest first."""
        return self._call("GET", path_of(collection, "snapshots"), SnapshotList)

    def snapshot(self, collection: str, name: str, *, verify: bool = False) -> SnapshotReply:
        """What an archive holds; ``verify``: after all of it was read."""
        path = path_of(collection, "snapshots", name)
        return self._call("GET", f"{path}?verify=true" if verify else path, SnapshotReply)

    def restore_snapshot(self, collection: str, name: str, *, to: str | None = None) -> JobReply:
        """Have a collection replaced by what an archive of it holds, or another made of it; the job."""
        body = {} if to is None else {"as": to}
        return self._call("POST", path_of(collection, "snapshots", name, "restore"), JobReply, body)

    def delete_snapshot(self, collection: str, name: str) -> None:
        """Delete an archive."""
        self.send("DELETE", path_of(collection, "snapshots", name), None)

    # -- keys

    def create_key(
        self,
        name: str,
        scope: Literal["read", "write", "admin"],
        *,
        collections: Sequence[str] | None = None,
    ) -> KeyCreated:
        """Make a key, which is shown this once."""
        body = given(name=name, scope=scope, collections=collections)
        return self._call("POST", "/v1/keys", KeyCreated, body)

    def keys(self, *, limit: int = 100, cursor: str = "") -> KeyList:
        """A page of keys in order of creation; never a secret."""
        return self._call("GET", _page("/v1/keys", limit, cursor), KeyList)

    def revoke_key(self, prefix: str) -> None:
        """Refuse a key from now on."""
        self.send("DELETE", path_of(prefix, under="/v1/keys"), None)


def _page(path: str, limit: int, cursor: str) -> str:
    return f"{path}?{urlencode({'limit': limit, 'cursor': cursor})}"
