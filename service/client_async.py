"""The client's calls as coroutines."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Concatenate, ParamSpec, Self, TypeVar

from service.client import Client

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    call: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate["AsyncClient", P], Awaitable[T]]:
    @wraps(call)
    async def run(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, partial(call, self.client, *args, **kwargs)
        )

    return run


class AsyncClient:
    """The calls of a Client as coroutines, at most ``connections`` at once; each runs on a thread.

    ``client`` may be the address of a server, with a ``key`` to it, of which a Client is made. A call that
    is cancelled ends its waiting, not its request. Of ``index``, items and progress are run on that thread
    too. Raises ValueError for an address that is none.
    """

    def __init__(self, client: Client | str, *, key: str | None = None, connections: int = 16) -> None:
        if isinstance(client, Client) and key is not None:
            raise ValueError("A Client has its own key.")
        self.client = Client(client, key=key) if isinstance(client, str) else client
        self.threads = ThreadPoolExecutor(connections, thread_name_prefix="momoseek-client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        await asyncio.to_thread(self.threads.shutdown)
        self.client.close()

    models = _in_thread(Client.models)
    embed = _in_thread(Client.embed)
    rerank = _in_thread(Client.rerank)
    classify = _in_thread(Client.classify)
    similarity = _in_thread(Client.similarity)
    create_collection = _in_thread(Client.create_collection)
    collection = _in_thread(Client.collection)
    delete_collection = _in_thread(Client.delete_collection)
    put_items = _in_thread(Client.put_items)
    item = _in_thread(Client.item)
    delete_item = _in_thread(Client.delete_item)
    scroll = _in_thread(Client.scroll)
    search = _in_thread(Client.search)
    search_batch = _in_thread(Client.search_batch)
    recommend = _in_thread(Client.recommend)
    index = _in_thread(Client.index)
    patch_item = _in_thread(Client.patch_item)
    count = _in_thread(Client.count)
    facet = _in_thread(Client.facet)
    delete_items = _in_thread(Client.delete_items)
    bulk = _in_thread(Client.bulk)
    wait = _in_thread(Client.wait)
    job = _in_thread(Client.job)
    jobs = _in_thread(Client.jobs)
    job_errors = _in_thread(Client.job_errors)
    pause_job = _in_thread(Client.pause_job)
    resume_job = _in_thread(Client.resume_job)
    cancel_job = _in_thread(Client.cancel_job)
    explain = _in_thread(Client.explain)
    patch_collection = _in_thread(Client.patch_collection)
    collections = _in_thread(Client.collections)
    aliases = _in_thread(Client.aliases)
    move_aliases = _in_thread(Client.move_aliases)
    index_state = _in_thread(Client.index_state)
    audit_index = _in_thread(Client.audit_index)
    rebuild_index = _in_thread(Client.rebuild_index)
    evaluate_index = _in_thread(Client.evaluate_index)
    roll_back_index = _in_thread(Client.roll_back_index)
    reembed = _in_thread(Client.reembed)
    create_snapshot = _in_thread(Client.create_snapshot)
    snapshots = _in_thread(Client.snapshots)
    snapshot = _in_thread(Client.snapshot)
    restore_snapshot = _in_thread(Client.restore_snapshot)
    delete_snapshot = _in_thread(Client.delete_snapshot)
    learn_adapter = _in_thread(Client.learn_adapter)
    adapters = _in_thread(Client.adapters)
    adapter = _in_thread(Client.adapter)
    promote_adapter = _in_thread(Client.promote_adapter)
    roll_back_adapter = _in_thread(Client.roll_back_adapter)
    try_adapter = _in_thread(Client.try_adapter)
    delete_adapter = _in_thread(Client.delete_adapter)
    find_duplicates = _in_thread(Client.find_duplicates)
    create_key = _in_thread(Client.create_key)
    keys = _in_thread(Client.keys)
    revoke_key = _in_thread(Client.revoke_key)
    bulk_source = _in_thread(Client.bulk_source)
    job_results = _in_thread(Client.job_results)
