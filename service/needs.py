"""What each route asks of a key: the one table."""

from dataclasses import dataclass

from index.keys import Scope


@dataclass(frozen=True)
class Need:
    """What a route asks of a key. ``everywhere``: it reaches beyond one collection's items, so that a key
    which is limited to some collections is refused."""

    scope: Scope
    everywhere: bool = False


_READ, _WRITE, _ADMIN = Need("read"), Need("write"), Need("admin")

# The one table: every route of the application, by method and path. None is open to everybody.
NEEDS: dict[str, Need | None] = {
    "GET /": None,
    "GET /web/{name}": None,
    "GET /docs": None,
    "GET /docs/{name}": None,
    "GET /openapi.json": None,
    "GET /problems/{code}": None,
    "GET /livez": None,
    "GET /readyz": None,
    "GET /healthz": None,
    "GET /startupz": None,
    "GET /metrics": Need("read", everywhere=True),
    "GET /v1/models": _READ,
    "GET /v1/models/{model}": _READ,
    "POST /v1/embeddings": _READ,
    "POST /v1/classify": _READ,
    "POST /v1/similarity": _READ,
    "POST /v1/explain": _READ,
    "POST /v1/rerank": _READ,
    "POST /v2/rerank": _READ,
    "GET /v1/collections": Need("read", everywhere=True),
    "GET /v1/collections/{collection}": _READ,
    "PUT /v1/collections/{collection}": _WRITE,
    "PATCH /v1/collections/{collection}": _WRITE,
    "DELETE /v1/collections/{collection}": _ADMIN,
    "PUT /v1/collections/{collection}/items": _WRITE,
    "POST /v1/collections/{collection}/items/count": _READ,
    "POST /v1/collections/{collection}/items/delete": _WRITE,
    "POST /v1/collections/{collection}/items/facet": _READ,
    "POST /v1/collections/{collection}/items/scroll": _READ,
    "GET /v1/collections/{collection}/items/{item_id}": _READ,
    "PATCH /v1/collections/{collection}/items/{item_id}": _WRITE,
    "DELETE /v1/collections/{collection}/items/{item_id}": _WRITE,
    "GET /v1/collections/{collection}/images/{item_id}": _READ,
    "POST /v1/collections/{collection}/bulk": _WRITE,
    "POST /v1/collections/{collection}/search": _READ,
    "POST /v1/collections/{collection}/search/batch": _READ,
    "POST /v1/collections/{collection}/recommend": _READ,
    "POST /v1/collections/{collection}/duplicates": _WRITE,
    "GET /v1/collections/{collection}/index": _READ,
    "GET /v1/collections/{collection}/index/audit": _ADMIN,
    "POST /v1/collections/{collection}/reembed": _ADMIN,
    "POST /v1/collections/{collection}/index/rebuild": _ADMIN,
    "POST /v1/collections/{collection}/index/evaluate": _ADMIN,
    "POST /v1/collections/{collection}/index/rollback": _ADMIN,
    "POST /v1/collections/{collection}/snapshots": _ADMIN,
    "GET /v1/collections/{collection}/snapshots": _ADMIN,
    "GET /v1/collections/{collection}/snapshots/{snapshot}": _ADMIN,
    "DELETE /v1/collections/{collection}/snapshots/{snapshot}": _ADMIN,
    "POST /v1/collections/{collection}/snapshots/{snapshot}/restore": _ADMIN,
    # A key that is limited to some collections sees their jobs only: request.state.within.
    "GET /v1/jobs": _READ,
    "GET /v1/jobs/{job}": _READ,
    "GET /v1/jobs/{job}/errors": _READ,
    "GET /v1/jobs/{job}/results": _READ,
    "POST /v1/jobs/{job}/cancel": _WRITE,
    "POST /v1/jobs/{job}/pause": _WRITE,
    "POST /v1/jobs/{job}/resume": _WRITE,
    # As with jobs. Who may write can have an adapter learned; what answers everybody is an admin's to say.
    "GET /v1/adapters": _READ,
    "POST /v1/adapters": _WRITE,
    "GET /v1/adapters/{adapter}": _READ,
    "DELETE /v1/adapters/{adapter}": _ADMIN,
    "POST /v1/adapters/{adapter}/promote": _ADMIN,
    "POST /v1/adapters/{adapter}/rollback": _ADMIN,
    "PUT /v1/adapters/{adapter}/traffic": _ADMIN,
    "GET /v1/aliases": Need("read", everywhere=True),
    "POST /v1/aliases": Need("admin", everywhere=True),
    "GET /v1/keys": Need("admin", everywhere=True),
    "POST /v1/keys": Need("admin", everywhere=True),
    "DELETE /v1/keys/{prefix}": Need("admin", everywhere=True),
}
_UNDECLARED = Need("admin", everywhere=True)


def methods_at(path: str) -> list[str]:
    """What can be done at a path of the table; the framework itself knows one route at a time."""
    found = {method for method, _, at in (route.partition(" ") for route in NEEDS) if at == path}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def need_of(route: str) -> Need | None:
    """What a route asks of a key; one that the table does not name asks for all there is."""
    return NEEDS.get(route, _UNDECLARED)
