"""What is told of writes and refusals, and what never is."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from service import cli
from tests.guarded import Guarded, bearer, guarded
from tests.problems import assert_problem


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    """One of the test's own."""
    with guarded(tmp_path) as locked:
        yield locked


def test_no_secret_is_in_logs_replies_metrics_or_on_disk(
    locked: Guarded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING, logger="httpx2")  # the client of this test
    caplog.set_level(logging.DEBUG)
    told = []
    for secret in locked.secrets.values():
        for headers in (bearer(secret), {"X-API-Key": secret}):
            for method, path in (
                ("GET", "/v1/collections/c"),
                ("GET", f"/v1/keys?key={secret}"),
                ("GET", f"/v1/models/{secret}"),
                ("DELETE", f"/v1/keys/{secret}"),
                ("PUT", "/v1/collections/c/items"),
                ("GET", f"/{secret}"),
            ):
                reply = locked.api.request(method, path, headers=headers)
                told.append(reply.text + str(reply.headers))

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(cast(Any, locked.api.app).state.retriever, "collections", broken)
    failed = locked.api.get("/v1/collections", headers=locked.headers("admin"))
    assert_problem(failed, 500, "internal_error")
    told += [failed.text, locked.api.get("/metrics").text, caplog.text]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "planted" in caplog.text
    for secret in locked.secrets.values():
        assert all(secret[-64:] not in text for text in told)
        assert secret[-64:].encode() not in kept
    assert locked.secrets["read"][:17].encode() in kept


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the audit log so far."""
    return [json.loads(record.message) for record in caplog.records if record.name == "momoseek.audit"]


def test_writes_and_acts_of_administration_are_in_the_audit_log_and_reads_are_not(
    locked: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # the audit log does not follow the others
    caplog.handler.setLevel(logging.NOTSET)
    caplog.clear()
    api, admin = locked.api, locked.headers("admin")
    item = {"items": [{"id": "x", "text": "red"}]}
    path = "/v1/collections/c/items"
    api.put(path, json=item, headers={**locked.headers("write"), "X-Request-Id": "r-1"})
    api.put(path, json=item, headers=locked.headers("read"))
    api.put(path, json=item)
    api.post("/v1/collections/c/search", json={"query": "red"}, headers=admin)
    made = api.post("/v1/keys", json={"name": "new", "scope": "read"}, headers=admin).json()["about"]
    api.delete(f"/v1/keys/{made['prefix']}", headers=admin)
    api.request("TRACE", "/v1/collections/c", headers=admin)
    lines = audited(caplog)
    prefix = {caller: secret[:17] for caller, secret in locked.secrets.items()}
    assert lines[0] == {
        "key": prefix["write"],
        "action": "PUT /v1/collections/{collection}/items",
        "collection": "c",
        "target": None,
        "request_id": "r-1",
        "status": 200,
        "outcome": "ok",
    }
    assert [(line["key"], line["status"], line["outcome"]) for line in lines[1:3]] == [
        (prefix["read"], 403, "scope_insufficient"),
        (None, 401, "key_missing"),
    ]
    assert [(line["action"], line["target"], line["status"]) for line in lines[3:]] == [
        ("POST /v1/keys", made["prefix"], 201),
        ("DELETE /v1/keys/{prefix}", made["prefix"], 204),
    ]


def test_a_write_that_fails_unexpectedly_is_in_the_audit_log(
    locked: Guarded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(cast(Any, locked.api.app).state.retriever, "delete_collection", broken)
    locked.api.delete("/v1/collections/c", headers=locked.headers("admin"))
    assert audited(caplog)[-1]["status"] == 500


def test_what_the_command_line_does_to_keys_is_in_the_audit_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data-dir", str(tmp_path))
    for arguments in (("create", "ops", "--scope", "admin"), ("list",), ("revoke", "momo_000000000000")):
        with pytest.raises(SystemExit):
            cli.main(["key", *arguments, *data])
    prefix = capsys.readouterr().out[:17]
    with pytest.raises(SystemExit):
        cli.main(["key", "revoke", prefix, *data])
    done = [("momoseek key create", prefix, "ok"), ("momoseek key revoke", prefix, "ok")]
    assert [(line["action"], line["target"], line["outcome"]) for line in audited(caplog)] == done
