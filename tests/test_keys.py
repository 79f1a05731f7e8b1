"""API keys in the catalog and at the command line: hashed, revoked for ever, the same on both databases."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from index import schema
from index.catalog import Catalog
from index.keys import KeyNotFound, without_secrets
from service import cli


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """An empty catalog."""
    catalog = Catalog(url)
    yield catalog
    catalog.close()


def test_a_key_is_found_by_its_secret_and_by_nothing_else(catalog: Catalog) -> None:
    key, secret = catalog.keys.create("Nächtlich 猫", "write", ["shop", "c", "shop"])
    other, _ = catalog.keys.create("second", "read")
    assert secret.startswith(f"{key.prefix}_")
    assert len(secret) == len(key.prefix) + 1 + 64  # 256 bits as hex
    ring = catalog.keys.ring()
    found = ring.find(secret)
    assert found == key
    assert (key.name, key.scope, key.collections) == ("Nächtlich 猫", "write", ("c", "shop"))
    assert (key.last_used_at, key.revoked_at, other.collections) == (None, None, None)
    assert ring.keys == [key, other]
    for wrong in ("", key.prefix, secret[:-1], secret.upper(), secret + " ", "momo_\udcff", "ü\0"):
        assert ring.find(wrong) is None


def test_a_scope_includes_the_lower_ones(catalog: Catalog) -> None:
    allowed = {
        scope: [asked for asked in ("read", "write", "admin") if key.allows(asked)]
        for scope in ("read", "write", "admin")
        for key, _ in [catalog.keys.create(scope, scope)]
    }
    assert allowed == {"read": ["read"], "write": ["read", "write"], "admin": ["read", "write", "admin"]}


def test_a_revoked_key_is_refused_by_every_process_and_the_ring_is_never_empty_again(
    catalog: Catalog, url: str
) -> None:
    assert len(catalog.keys.ring()) == 0
    key, secret = catalog.keys.create("only", "admin")
    other = Catalog(url)
    assert other.keys.ring().find(secret) == key
    revoked = other.keys.revoke(key.prefix)
    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= key.created_at
    assert catalog.keys.ring().find(secret) is None
    assert len(catalog.keys.ring()) == 1
    assert catalog.keys.revoke(key.prefix) == revoked  # the first time stays
    other.close()


def test_revoking_what_is_not_there_is_told_without_repeating_a_secret(catalog: Catalog) -> None:
    _, secret = catalog.keys.create("only", "read")
    with pytest.raises(KeyNotFound) as refused:
        catalog.keys.revoke(secret)
    assert secret[-64:] not in str(refused.value)
    assert catalog.keys.ring().find(secret) is not None


def test_the_last_use_is_kept(catalog: Catalog) -> None:
    key, secret = catalog.keys.create("used", "read")
    catalog.keys.note_use(key.prefix, key.created_at + 5)
    found = catalog.keys.ring().find(secret)
    assert found is not None
    assert found.last_used_at == key.created_at + 5


def test_the_catalog_holds_no_secret(catalog: Catalog, url: str) -> None:
    _, secret = catalog.keys.create("only", "read", ["c"])
    engine = schema.open_engine(url)
    with engine.connect() as connection:
        [row] = connection.execute(sa.select(schema.api_keys)).all()
    engine.dispose()
    assert secret[-64:] not in repr(row)
    assert secret[:17] in repr(row)


def test_a_catalog_from_before_there_were_keys_gets_their_table(catalog: Catalog, url: str) -> None:
    engine = schema.open_engine(url)
    with engine.execution_options(momoseek_write=True).begin() as connection:
        schema.api_keys.drop(connection)
    engine.dispose()
    again = Catalog(url)
    assert len(again.keys.ring()) == 0
    again.close()


def test_a_key_in_a_text_is_cut_down_to_its_prefix() -> None:
    text = f"/v1/keys/momo_0123456789ab_{'f' * 64}?x"
    assert without_secrets(text) == "/v1/keys/momo_0123456789ab_…?x"
    assert without_secrets("/v1/keys/momo_0123456789ab") == "/v1/keys/momo_0123456789ab"


# -- the command line


def momoseek(folder: Path, *arguments: str) -> int:
    """Run a command in this process; its exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--data-dir", str(folder)])
    return int(ended.value.code or 0)


def test_a_key_is_made_listed_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    making = ("key", "create", "nightly", "--scope", "write", "--collection", "shop", "--collection", "c")
    assert momoseek(tmp_path, *making) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    prefix = secret[:17]
    assert prefix in shown.err
    assert secret not in shown.err + caplog.text
    assert momoseek(tmp_path, "key", "list", "--json") == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["prefix"], listed["name"], listed["scope"]) == (prefix, "nightly", "write")
    assert (listed["collections"], listed["revoked_at"]) == (["c", "shop"], None)
    assert momoseek(tmp_path, "key", "revoke", prefix) == 0
    assert momoseek(tmp_path, "key", "list") == 0
    table = capsys.readouterr().out
    assert prefix in table
    assert secret not in table
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    assert catalog.keys.ring().find(secret) is None
    catalog.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("key", "list"), "there is no catalog in"),
        (("key", "revoke", "momo_0123456789ab"), "there is no catalog in"),
        (("key", "create", "x", "--scope", "read", "--collection", "not a name"), "/collections/0"),
        (("key", "create", "", "--scope", "read"), "/name"),
    ],
)
def test_mistakes_are_told_and_leave_no_catalog(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert momoseek(tmp_path / "data", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
