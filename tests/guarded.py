"""A server that asks for keys, and who may come to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastapi.testclient import TestClient

from index.catalog import Catalog
from index.keys import SCOPES
from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder

WRONG = f"momo_0123456789ab_{'0123' * 16}"


def bearer(secret: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {secret}"}


@dataclass
class Guarded:
    """A server with an empty collection "c", keys of every kind, and its catalog as others have it."""

    api: TestClient
    catalog: Catalog
    secrets: dict[str, str]

    def headers(self, caller: str) -> dict[str, str]:
        """What this caller sends."""
        return bearer(self.secrets[caller]) if caller in self.secrets else {}


@contextmanager
def guarded(folder: Path, **settings: Any) -> Iterator[Guarded]:
    """A server with these settings, in this folder."""
    wanted = Settings(data_dir=folder, worker=False, refresh_s=60, **settings)
    catalog = Catalog(wanted.catalog_address)
    secrets: dict[str, str] = {scope: catalog.keys.create(scope, scope)[1] for scope in SCOPES}
    secrets["own"] = catalog.keys.create("own", "admin", ["c", "d"])[1]
    secrets["other"] = catalog.keys.create("other", "admin", ["other"])[1]
    revoked, secrets["revoked"] = catalog.keys.create("revoked", "admin")
    catalog.keys.revoke(revoked.prefix)
    secrets["wrong"] = WRONG
    with TestClient(create_app(wanted, cast(Any, FakeEncoder()))) as api:
        assert api.put("/v1/collections/c", headers=bearer(secrets["write"])).status_code == 201
        yield Guarded(api, catalog, secrets)
    catalog.close()
