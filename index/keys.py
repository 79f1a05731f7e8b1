"""API keys: kept as hashes, told apart by a public prefix, revoked but never deleted.

A key is 256 random bits, so its plain SHA-256 can neither be inverted nor guessed, and looking that hash up
tells by its timing nothing about the key.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from index.records import CatalogError
from index.schema import api_keys

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")  # each includes those before it
PREFIX_PATTERN = r"momo_[0-9a-f]{12}"

_SECRET = re.compile(rf"({PREFIX_PATTERN})_[0-9a-f]+")
_TOKEN = re.compile(r"\beyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)  # a JSON Web Token: {" in base64, three parts
_Connections = Callable[[], AbstractContextManager[sa.Connection]]


class KeyNotFound(CatalogError):
    """There is no key of this prefix."""


@dataclass(frozen=True)
class Key:
    """What is known of a key; times are in seconds since the epoch. ``collections`` None: all of them."""

    prefix: str
    name: str
    scope: Scope
    collections: tuple[str, ...] | None
    created_at: float
    last_used_at: float | None
    revoked_at: float | None

    def allows(self, scope: Scope) -> bool:
        """Whether this key's scope includes ``scope``."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class KeyRing:
    """All keys as they stood at one moment. Empty only if there never was one: revoking leaves it locked."""

    def __init__(self, keys: Iterable[tuple[str, Key]]) -> None:
        self._by_hash = dict(keys)

    def __len__(self) -> int:
        return len(self._by_hash)

    @property
    def keys(self) -> list[Key]:
        """The keys in order of creation, the revoked ones included."""
        return list(self._by_hash.values())

    def find(self, secret: str) -> Key | None:
        """The key that this is, unless it is none of ours or was revoked."""
        key = self._by_hash.get(_hash(secret))
        return None if key is None or key.revoked_at is not None else key


class Keys:
    """The keys of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def create(self, name: str, scope: Scope, collections: Sequence[str] | None = None) -> tuple[Key, str]:
        """A new key and its secret, which is kept nowhere: this is the only time that it is known."""
        prefix = f"momo_{secrets.token_hex(6)}"
        secret = f"{prefix}_{secrets.token_hex(32)}"
        within = None if collections is None else tuple(sorted(set(collections)))
        key = Key(prefix, name, scope, within, time.time(), None, None)
        with self._writing() as connection:
            connection.execute(sa.insert(api_keys), {**vars(key), "hash": _hash(secret)})
        return key, secret

    def ring(self) -> KeyRing:
        """All keys, read in one transaction."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.prefix)
        with self._reading() as connection:
            return KeyRing((row.hash, _key(row)) for row in connection.execute(query))

    def revoke(self, prefix: str) -> Key:
        """Refuse a key from now on; the time of the first revocation stays. Raises KeyNotFound."""
        here = api_keys.c.prefix == prefix
        with self._writing() as connection:
            connection.execute(
                sa.update(api_keys)
                .where(here, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
            row = connection.execute(sa.select(api_keys).where(here)).one_or_none()
            if row is None:
                raise KeyNotFound(f"there is no key {without_secrets(prefix)!r}")
            return _key(row)

    def note_use(self, prefix: str, at: float) -> None:
        """Record that a key was used at this time."""
        with self._writing() as connection:
            connection.execute(sa.update(api_keys).where(api_keys.c.prefix == prefix).values(last_used_at=at))


def without_secrets(text: str) -> str:
    """The text with any key in it cut down to its prefix, and any JSON Web Token left out."""
    return _TOKEN.sub("eyJ…", _SECRET.sub(r"\1_…", text))


def _key(row: sa.Row[Any]) -> Key:
    members = {name: value for name, value in row._mapping.items() if name != "hash"}
    within = members.pop("collections")
    return Key(**members, collections=None if within is None else tuple(within))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
