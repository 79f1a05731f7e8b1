"""The reverse proxy of deploy/nginx in front of a server that asks for keys, with TLS towards clients."""

import getpass
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from index.catalog import Catalog
from service.client import Client
from service.config import Settings
from tests.authority import Authority
from tests.served import serving
from tests.test_deploy import ROOT, tool

NAME = "localhost"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Proxied:
    """Where the proxy listens, and a client of it."""

    def __init__(self, port: int, plain_port: int, authority: Authority, key: str) -> None:
        self.url = f"https://{NAME}:{port}"
        self.plain_url = f"http://{NAME}:{plain_port}"
        self.tls = authority.believed()
        self.key = key
        self.http = httpx2.Client(
            base_url=self.url, verify=self.tls, headers={"Authorization": f"Bearer {key}"}
        )


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    nginx = tool("nginx", "nginx-light")
    folder = tmp_path_factory.mktemp("proxy")
    catalog = Catalog(Settings(data_dir=folder).catalog_address)
    _, key = catalog.keys.create("test", "admin")
    catalog.close()
    authority = Authority(folder)
    pem = authority.certificate(NAME)
    port, plain_port = free_port(), free_port()
    with serving(folder) as served:
        shipped = (ROOT / "deploy/nginx/momoseek.conf").read_text()
        here = {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen 80": f"listen 127.0.0.1:{plain_port}",
            "127.0.0.1:8000": served.url.removeprefix("http://"),
            "/etc/ssl/certs/search.example.pem": str(pem),
            "/etc/ssl/private/search.example.key": str(pem),
            "search.example": NAME,
        }
        for shown, meant in here.items():
            assert shown in shipped
            shipped = shipped.replace(shown, meant)
        (folder / "momoseek.conf").write_text(shipped)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = folder / "nginx.conf"
        main.write_text(
            f"user {getpass.getuser()}; daemon off; pid {folder}/nginx.pid; events {{}}\n"
            f"http {{ access_log off; {temporary} include {folder}/momoseek.conf; }}\n"
        )
        command = [nginx, "-e", f"{folder}/error.log", "-c", str(main)]
        subprocess.run([*command, "-t", "-q"], check=True, timeout=20)
        process = subprocess.Popen(command)
        found = Proxied(port, plain_port, authority, key)
        try:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    assert found.http.get("/livez").status_code == 200
                    break
                except httpx2.TransportError:
                    time.sleep(0.05)
            yield found
        finally:
            found.http.close()
            process.terminate()
            process.wait(20)


def test_a_client_works_through_tls_and_nobody_without_a_key(proxied: Proxied) -> None:
    with Client(proxied.url, key=proxied.key, tls=proxied.tls) as client:
        client.create_collection("c")
        client.put_items("c", [{"id": "x", "text": "red"}])
        assert client.search("c", "red").results[0].id == "x"
    bare = httpx2.get(f"{proxied.url}/v1/models", verify=proxied.tls, headers={"X-Request-Id": "r-9"})
    assert (bare.status_code, bare.headers["x-request-id"]) == (401, "r-9")
    assert "max-age" in bare.headers["strict-transport-security"]


def test_plain_http_is_led_to_tls(proxied: Proxied) -> None:
    reply = httpx2.get(f"{proxied.plain_url}/v1/models?x=1")
    assert (reply.status_code, reply.headers["location"]) == (301, f"https://{NAME}/v1/models?x=1")


def test_a_body_that_is_too_large_is_refused_in_our_own_words(proxied: Proxied) -> None:
    limit = Settings().max_body_bytes
    most = re.search(r"client_max_body_size (\d+)m;", (ROOT / "deploy/nginx/momoseek.conf").read_text())
    assert most is not None
    assert limit < int(most[1]) * 2**20 < 1.1 * limit
    reply = proxied.http.post("/v1/embeddings", content=b" " * (limit + 1))
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


def test_bulk_lines_may_be_more_than_one_body(proxied: Proxied, tmp_path: Path) -> None:
    proxied.http.put("/v1/collections/b")
    line = b'{"op":"delete","id":"x"}' + b" " * 1_000_000 + b"\n"
    reply = proxied.http.post(
        "/v1/collections/b/bulk",
        content=(line for _ in range(40)),
        headers={"Content-Type": "application/x-ndjson"},
        timeout=60,
    )
    assert reply.status_code == 202, reply.text
    assert reply.json()["counts"]["total"] == 40
