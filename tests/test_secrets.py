"""What is secret is told to nobody: not in log lines, replies, metrics, on the screen, nor on disk."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service import cli
from tests.conftest import ROOT, clean_environment
from tests.guarded import bearer, guarded
from tests.test_signed_tokens import SECRET, token

PASSWORD = "sesame-open"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:at@{PASSWORD}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:sl/ash:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql+psycopg://127.0.0.1:1/x?user=u&password={PASSWORD}",
        f"postgresql+psycopg:/u:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:port/x",
        f"nodriver://u:{PASSWORD}@127.0.0.1:1/x",
    ],
)
def test_a_databases_password_is_not_shown_even_where_its_address_is_wrong(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for command in ("serve", "audit"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--data-dir", str(tmp_path), "--catalog-url", url])
        assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert "StorageUnavailable" in shown.err
    for told in (shown.out, shown.err, caplog.text):
        assert PASSWORD not in told.replace("\n", "")


def test_a_password_is_handed_to_the_worker_in_its_environment_where_no_list_of_processes_shows_it(
    tmp_path: Path,
) -> None:
    environment = clean_environment() | {"MOMOSEEK_CATALOG_URL": f"sqlite:///{tmp_path}/{PASSWORD}.db"}
    command = [sys.executable, "-m", "service.cli", "worker", "--supervised", "--data-dir", str(tmp_path)]
    worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE)
    try:
        line = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        assert PASSWORD.encode() not in line
    finally:
        worker.kill()
        worker.wait(20)
        assert worker.stdin is not None
        worker.stdin.close()


def test_tokens_their_secret_and_what_a_url_carries_stay_where_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="httpx2")  # the client of this test
    caplog.set_level(logging.DEBUG)
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    data = tmp_path / "data"
    data.mkdir()
    good, bad = token(scope="admin"), token(SECRET[::-1])
    signed = f"http://10.0.0.1/x.png?X-Signature={PASSWORD}"
    told = []
    with guarded(data, jwt_secret_file=str(secret), fetch_hosts="*") as locked:
        for presented in (good, bad, token(exp=time.time() - 99)):
            for headers in (bearer(presented), {"X-API-Key": presented}):
                for method, path in (
                    *(("GET", "/v1/models"), ("GET", f"/v1/models/{presented}"), ("GET", f"/{presented}")),
                    *(("PUT", "/v1/collections/c"), ("DELETE", f"/v1/keys/{presented}")),
                ):
                    reply = locked.api.request(method, path, headers=headers)
                    told.append(reply.text + str(reply.headers))
        item = {"items": [{"id": "x", "image": {"url": signed}}]}
        reply = locked.api.put("/v1/collections/c/items", json=item, headers=bearer(good))
        assert reply.json()["items"][0]["problem"]["code"] == "url_not_allowed"
        told += [reply.text, locked.api.get("/metrics", headers=bearer(good)).text]
    told.append(caplog.text)
    kept = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    hidden = [SECRET.decode(), PASSWORD, *(presented.rpartition(".")[2] for presented in (good, bad))]
    for text in hidden:
        assert not any(text in said for said in told), text
        assert text.encode() not in kept
    assert "jwt:ann" in caplog.text
    assert os.fsdecode(secret) not in "".join(told)
