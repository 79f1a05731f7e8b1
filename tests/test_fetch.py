"""Pictures by URL: what is fetched, and what nobody can make this server fetch."""

import asyncio
import gzip
import io
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from service.config import InvalidSettings, Settings, resolve
from service.fetch import Fetcher
from service.urls import Allowed, Target, UrlInvalid, UrlNotAllowed, UrlUnreachable, is_public
from tests.authority import Authority
from tests.fakes import FakeEncoder, square
from tests.problems import assert_problem
from tests.strangers import PRIVATE, PUBLIC, Names, Stranger, answer, internet, redirect, stranger

MAX_BYTES = 20_000
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NAMES: dict[str, list[list[str]]] = {
    "cdn.test": [[PUBLIC]],
    "both.test": [[PUBLIC, PRIVATE]],
    "rebinds.test": [[PUBLIC], [PRIVATE]],
    "six.test": [["::1"]],
    "private.test": [[PRIVATE]],
    "odd.test": [["fe80::1%lo"]],
    "none.test": [[]],
}
# Loopback, private, link-local, shared, special, multicast, reserved; IPv4 in IPv6; tunnels; unique local.
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1"),
    *("172.31.255.255", "192.168.0.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8"),
    *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *(
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
    ),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "100::1"),
    *("2001:0:7f00:1::", "2001:20::1", "2001:db8::1", "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1"),
    *("fec0::1", "ff02::1", "5f00::1", "4000::1"),
]
PUBLIC_ONES = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450:4001::1"]


@dataclass
class World:
    """An API that fetches from anywhere, at the strangers' ports too; the private one must see nothing."""

    api: TestClient
    public: Stranger
    private: Stranger
    names: Names

    def embed(self, url: str) -> Any:
        return self.api.post("/v1/embeddings", json={"input": {"image": {"url": url}}})


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        public, private = (stack.enter_context(stranger(address)) for address in (PUBLIC, PRIVATE))
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("fetch"),
            worker=False,
            refresh_s=60,
            allowed_hosts="testserver",
            fetch_hosts=f"*, *:{public.port}, *:{private.port}",
            max_image_bytes=MAX_BYTES,
            max_body_bytes=3 * MAX_BYTES,
            max_image_pixels=1_000_000,
            max_items=8,
        )
        names = Names(NAMES)
        app = create_app(settings, cast(Any, FakeEncoder()), internet(names))
        api = stack.enter_context(TestClient(app))
        api.put("/v1/collections/c")
        yield World(api, public, private, names)


@pytest.fixture
def world(opened: World) -> Iterator[World]:
    opened.public.answers = {"/red.png": answer(square("red"))}
    for server in (opened.public, opened.private):
        server.heads.clear()
        server.connections = 0
    opened.names.asked.clear()
    yield opened
    assert opened.private.connections == 0, "the private server was reached"


def cdn(world: World, path: str = "/red.png", host: str = "cdn.test") -> str:
    return f"http://{host}:{world.public.port}{path}"


# -- what is fetched


def test_a_picture_is_embedded_as_if_it_had_been_sent(world: World) -> None:
    reply = world.embed(cdn(world))
    assert reply.status_code == 200, reply.text
    sent = world.api.post("/v1/embeddings", json={"input": "red"}).json()["data"][0]["embedding"]
    assert reply.json()["data"][0]["embedding"] == sent
    assert reply.json()["usage"]["image_count"] == 1


def test_nothing_is_told_to_the_other_server_but_what_it_is_asked_for(world: World) -> None:
    url = cdn(world, "/red.png?size=1&sig=a%2Fb#part")
    world.api.post(
        "/v1/embeddings",
        json={"input": {"image": {"url": url}}},
        headers={"Cookie": "a=b", "Authorization": "Bearer x", "X-API-Key": "x", "traceparent": "x"},
    )
    (head,) = world.public.heads
    first, *headers = head.strip().split("\r\n")
    assert first == "GET /red.png?size=1&sig=a%2Fb HTTP/1.1"
    assert {line.partition(":")[0] for line in headers} == {
        *("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection")
    }
    assert f"Host: cdn.test:{world.public.port}" in headers


def test_every_way_to_name_a_picture_takes_a_url(world: World) -> None:
    url, api = cdn(world), world.api
    part = {"type": "image_url", "image_url": {"url": url}}
    for given in ({"image": url}, {"content": [part, {"type": "text", "text": "red"}]}):
        assert api.post("/v1/embeddings", json={"input": [given]}).status_code == 200
    items = [
        {"id": "a", "image": {"url": url}},
        {"id": "b", "image": {"url": url}},
        {"id": "c", "image": url},
    ]
    written = api.put("/v1/collections/c/items", json={"items": items}).json()
    assert [item["status"] for item in written["items"]] == ["created"] * 3
    assert api.get("/v1/collections/c/images/a").content == square("red")
    assert (
        api.patch("/v1/collections/c/items/a", json={"image": {"url": url}}).json()["status"] == "unchanged"
    )
    search = {"query": {"image": {"url": url}}, "limit": 1}
    assert api.post("/v1/collections/c/search", json=search).json()["results"][0]["score"] == 1.0
    batch = api.post("/v1/collections/c/search/batch", json={"searches": [search, {"query": "red"}]}).json()
    assert [outcome["reply"]["results"][0]["score"] for outcome in batch["results"]] == [1.0, 1.0]
    image = {"image": {"url": url}}
    best = api.post("/v1/classify", json={"inputs": [image], "labels": ["red", "blue"]}).json()["results"][0]
    assert best["labels"][0]["label"] == "red"
    assert api.post("/v1/similarity", json={"source": "red", "targets": [image]}).json()["scores"] == [1.0]
    ranked = api.post("/v1/rerank", json={"query": image, "documents": ["blue", "red"]}).json()["results"]
    assert ranked[0]["index"] == 1
    form = {"request": (None, json.dumps({"input": image}), "application/json")}
    assert api.post("/v1/embeddings", files=form).status_code == 200


def test_a_url_that_a_request_names_twice_is_asked_for_once(world: World) -> None:
    image = {"image": {"url": cdn(world)}}
    assert world.api.post("/v1/embeddings", json={"input": [image, image, image]}).status_code == 200
    assert len(world.public.heads) == 1


def test_a_url_in_metadata_or_in_a_text_is_left_alone(world: World) -> None:
    url = cdn(world)
    item = {"id": "m", "text": url, "metadata": {"image": {"url": url}}}
    assert world.api.put("/v1/collections/c/items", json={"items": [item]}).status_code == 200
    assert world.api.post("/v1/embeddings", json={"input": [url, {"text": url}]}).status_code == 200
    assert world.public.connections == 0


def test_a_bad_url_fails_its_item_alone(world: World) -> None:
    items = [
        {"id": "good", "image": {"url": cdn(world)}},
        {"id": "bad", "image": {"url": "http://10.0.0.1/x"}},
    ]
    reply = world.api.put("/v1/collections/c/items", json={"items": items}).json()
    assert reply["items"][0]["status"] in ("created", "unchanged")
    assert reply["items"][1]["problem"]["code"] == "url_not_allowed"


def test_three_redirects_are_followed(world: World) -> None:
    world.public.answers |= {
        "/1": redirect("/2"),
        "/2": redirect(f"//cdn.test:{world.public.port}/3", "301 Moved Permanently"),
        "/3": redirect(cdn(world), "308 Permanent Redirect"),
    }
    assert world.embed(cdn(world, "/1")).status_code == 200
    assert len(world.public.heads) == 4


@pytest.mark.parametrize(
    "framed",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + square("red"),  # the end of the connection is the end of the picture
        b"HTTP/1.0 200 OK\r\n\r\n" + square("red"),
        CHUNKED + b"%x\r\n%s\r\n0\r\nContent-Encoding: gzip\r\n\r\n" % (len(square("red")), square("red")),
        b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + answer(square("red")),
        answer(square("red"), "Content-Type: text/html"),  # what it is called does not matter
    ],
)
def test_a_picture_comes_in_any_frame_that_http_has(world: World, framed: bytes) -> None:
    world.public.answers["/x"] = framed
    assert world.embed(cdn(world, "/x")).status_code == 200


# -- what is not


def test_a_server_fetches_nothing_unless_it_is_told_to(client: TestClient) -> None:
    for url in ("https://example.com/x.png", "http://127.0.0.1/", "file:///etc/passwd"):
        image = {"image": {"url": url}}
        part = {"content": [{"type": "image_url", "image_url": {"url": url}}]}
        for given in (image, part):
            assert_problem(client.post("/v1/embeddings", json={"input": given}), 422, "url_fetch_disabled")
        items = client.put("/v1/collections/c/items", json={"items": [{"id": "x", **image}]}).json()["items"]
        assert items[0]["problem"]["code"] == "url_fetch_disabled"
    assert 'momoseek_fetch_blocked_total{reason="disabled"} 9.0' in client.get("/metrics").text


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_private_address_is_refused_by_itself_behind_a_name_and_behind_a_redirect(
    world: World, address: str
) -> None:
    host = f"[{address}]" if ":" in address else address
    world.names.answers = {**NAMES, "hides.test": [[address]]}
    world.public.answers["/away"] = redirect(f"http://{host}/")
    world.public.answers["/hidden"] = redirect("http://hides.test/")
    for url in (f"http://{host}/", "https://hides.test/x", cdn(world, "/away"), cdn(world, "/hidden")):
        reply = world.embed(url)
        assert_problem(reply, 422, "url_not_allowed")
        assert "public" in reply.json()["detail"]


@pytest.mark.parametrize("address", PUBLIC_ONES)
def test_addresses_of_the_open_internet_are_none_of_these(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        # This very machine, at a port where something answers.
        ("http://127.0.0.1:{private}/", "url_not_allowed"),
        ("http://127.0.0.1.:{private}/", "url_not_allowed"),
        ("http://[::ffff:127.0.0.1]:{private}/", "url_not_allowed"),
        ("http://[0:0:0:0:0:ffff:7f00:1]:{private}/", "url_not_allowed"),
        ("http://private.test:{private}/", "url_not_allowed"),
        ("http://PRIVATE.Test.:{private}/", "url_not_allowed"),
        ("http://both.test:{private}/", "url_not_allowed"),
        ("http://both.test:{public}/red.png", "url_not_allowed"),
        ("http://six.test:{private}/", "url_not_allowed"),
        ("http://odd.test:{private}/", "url_not_allowed"),
        # Addresses that only some readers take for addresses.
        ("http://2130706433:{private}/", "url_invalid"),
        ("http://017700000001:{private}/", "url_invalid"),
        ("http://0x7f000001:{private}/", "url_invalid"),
        ("http://0177.0.0.1:{private}/", "url_invalid"),
        ("http://0x7f.0.0.1:{private}/", "url_invalid"),
        ("http://127.1:{private}/", "url_invalid"),
        ("http://127.0.0.1.0x0:{private}/", "url_invalid"),
        ("http://0:{private}/", "url_invalid"),
        ("http://[::1%25lo]:{private}/", "url_invalid"),
        ("http://[fe80::1%lo]:{private}/", "url_invalid"),
        ("http://[127.0.0.1]:{private}/", "url_invalid"),
        ("http://[v1.127.0.0.1]:{private}/", "url_invalid"),
        ("http://[::1:{private}/", "url_invalid"),
        ("http://\u0031\u0032\u0037\u3002\uff10.0.1:{private}/", "url_invalid"),
        ("http://%31%32%37.0.0.1:{private}/", "url_invalid"),
        # More in a URL than an address.
        ("http://user@cdn.test:{public}/red.png", "url_invalid"),
        ("http://user:password@cdn.test:{public}/red.png", "url_invalid"),
        ("http://@cdn.test:{public}/red.png", "url_invalid"),
        ("http://cdn.test:{public}@127.0.0.1:{private}/", "url_invalid"),
        ("http://cdn.test:{public}\\@127.0.0.1:{private}/", "url_invalid"),
        ("http://cdn.test:{public}/red.png\r\nX-Injected: 1", "url_invalid"),
        ("http://cdn.test:{public}/red png", "url_invalid"),
        ("http://cdn.test\t:{public}/red.png", "url_invalid"),
        ("http://cdn.test\0:{public}/red.png", "invalid_request"),
        ("http://cdn.test:{public}/r\u00f6t.png", "url_invalid"),
        (" http://cdn.test:{public}/red.png", "url_invalid"),
        # Not of http.
        ("file:///etc/passwd", "url_invalid"),
        ("FILE://localhost/etc/passwd", "url_invalid"),
        ("ftp://cdn.test/red.png", "url_invalid"),
        ("gopher://127.0.0.1:{private}/_GET", "url_invalid"),
        ("dict://127.0.0.1:{private}/", "url_invalid"),
        ("jar:http://cdn.test:{public}/red.png!/", "url_invalid"),
        ("ws://cdn.test:{public}/", "url_invalid"),
        ("data:image/png;base64,AAAA", "url_invalid"),
        ("//cdn.test:{public}/red.png", "url_invalid"),
        ("/etc/passwd", "url_invalid"),
        ("", "url_invalid"),
        # Nothing that could be a host or a port.
        ("http://", "url_invalid"),
        ("http:///red.png", "url_invalid"),
        ("http://-cdn.test:{public}/", "url_invalid"),
        ("http://cdn..test:{public}/", "url_invalid"),
        ("http://" + "a" * 64 + ".test:{public}/", "url_invalid"),
        ("http://" + "a." * 130 + "test:{public}/", "url_invalid"),
        ("http://cdn.test:{public}/" + "a" * 4096, "url_invalid"),
        ("http://cdn.test:port/", "url_invalid"),
        ("http://cdn.test:99999/", "url_invalid"),
        ("http://cdn.test:-1/", "url_invalid"),
        ("http://cdn.test:22/", "url_not_allowed"),
        ("http://cdn.test:0/", "url_not_allowed"),
        # Nobody there.
        ("http://unknown.test:{public}/", "url_unreachable"),
        ("http://none.test:{public}/", "url_unreachable"),
    ],
)
def test_what_is_no_plain_url_of_a_public_place_is_refused(world: World, url: str, code: str) -> None:
    url = url.replace("{public}", str(world.public.port)).replace("{private}", str(world.private.port))
    assert_problem(world.embed(url), 422, code)
    assert world.public.heads == []


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1:{private}/", "url_not_allowed"),
        ("//127.0.0.1:{private}/", "url_not_allowed"),
        ("http://private.test:{private}/", "url_not_allowed"),
        ("http://[::1]:{private}/", "url_not_allowed"),
        ("http://0x7f000001:{private}/", "url_invalid"),
        ("http://a:b@cdn.test:{public}/red.png", "url_invalid"),
        ("http://cdn.test:25/", "url_not_allowed"),
        ("file:///etc/passwd", "url_invalid"),
        ("http://[", "url_invalid"),
        ("http://unknown.test/", "url_unreachable"),
        ("/missing", "url_unreachable"),
        ("/r\u00f6t", "url_invalid"),
    ],
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 For Ever"])
def test_a_redirect_is_checked_as_the_url_was(world: World, status: str, location: str, code: str) -> None:
    ports = {"public": world.public.port, "private": world.private.port}
    for name, port in ports.items():
        location = location.replace(f"{{{name}}}", str(port))
    world.public.answers["/away"] = redirect(location, status)
    assert_problem(world.embed(cdn(world, "/away")), 422, code)


def test_redirects_end_somewhere(world: World) -> None:
    world.public.answers["/round"] = redirect("/round")
    assert_problem(world.embed(cdn(world, "/round")), 422, "url_not_allowed")
    assert len(world.public.heads) == 4


def test_a_name_that_changes_its_address_leads_to_the_one_that_was_checked(world: World) -> None:
    url = cdn(world, host="rebinds.test")
    assert world.embed(url).status_code == 200  # the name server's second answer would be the private one
    assert world.names.asked == ["rebinds.test"]
    assert_problem(world.embed(url), 422, "url_not_allowed")
    assert world.names.asked == ["rebinds.test"] * 2


def test_a_name_that_changes_its_address_between_redirects_is_caught(world: World) -> None:
    world.public.answers["/again"] = redirect("/red.png")
    assert_problem(world.embed(cdn(world, "/again", "rebinds.test")), 422, "url_not_allowed")
    assert len(world.public.heads) == 1


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Any:
    """A server that goes on until nobody listens."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return talk


def many_pixels() -> bytes:
    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "PNG")
    return file.getvalue()


BOMB = gzip.compress(bytes(10_000_000))


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (answer(bytes(MAX_BYTES + 1)), 413, "image_too_many_bytes"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413, "image_too_many_bytes"),
        (endless(HEAD + b"\r\n", bytes(4096)), 413, "image_too_many_bytes"),
        (endless(CHUNKED, b"1\r\nx\r\n" * 1000), 413, "image_too_many_bytes"),
        (endless(CHUNKED + b"1\r\nx\r\n0\r\n", b"A: b\r\n" * 1000), 413, "image_too_many_bytes"),
        (endless(CHUNKED + b"1\r\nx\r\n0\r\nA: ", b"b" * 4096), 413, "image_too_many_bytes"),
        (endless(HEAD, b"A: b\r\n" * 1000), 422, "url_unreachable"),
        (endless(HEAD + b"A: ", b"b" * 4096), 422, "url_unreachable"),
        (endless(b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * 100), 422, "url_unreachable"),
        (answer(BOMB, "Content-Encoding: gzip"), 422, "url_not_allowed"),
        (answer(BOMB, "Content-Encoding: GZIP, br"), 422, "url_not_allowed"),
        (answer(BOMB), 422, "image_undecodable"),
        (answer(many_pixels()), 413, "image_too_many_pixels"),
        (answer(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "image_format_unsupported"),
        (
            answer(b"root:x:0:0:root:/root:/bin/bash", "Content-Type: image/png"),
            422,
            "image_undecodable",
        ),
        (answer(square("red")[:40]), 422, "image_undecodable"),
        (answer(b""), 422, "image_undecodable"),
        (answer(square("red"))[:-9], 422, "url_unreachable"),
        (CHUNKED + b"ff\r\nshort", 422, "url_unreachable"),
        (answer(square("red"), status="404 Not Found"), 422, "url_unreachable"),
        (answer(square("red"), status="206 Partial Content"), 422, "url_unreachable"),
        (answer(b"", status="204 No Content"), 422, "url_unreachable"),
        (answer(b"", status="302 Found"), 422, "url_unreachable"),
        (answer(b"", status="500 Broken"), 422, "url_unreachable"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", 422, "url_unreachable"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 422, "url_unreachable"),
        (HEAD + b"Content-Length: -1\r\n\r\nab", 422, "url_unreachable"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 422, "url_unreachable"),
        (b"", 422, "url_unreachable"),
    ],
)
def test_an_answer_that_is_no_picture_of_sane_size_is_refused(
    world: World, said: Any, status: int, code: str
) -> None:
    world.public.answers["/x"] = said
    assert_problem(world.embed(cdn(world, "/x")), status, code)


def test_what_was_read_is_not_told(world: World) -> None:
    world.public.answers["/secret"] = answer(b"root:x:0:0 sesame", "X-Secret: sesame", status="403 Sesame")
    world.public.answers["/file"] = answer(b"root:x:0:0 sesame")
    for path in ("/secret", "/file"):
        assert "sesame" not in world.embed(cdn(world, path)).text.lower()


def test_the_pictures_of_one_request_are_bounded_in_number_and_together(world: World) -> None:
    for i in range(9):
        world.public.answers[f"/{i}"] = answer(square("red") + bytes(MAX_BYTES - 500))
    images = [{"image": {"url": cdn(world, f"/{i}")}} for i in range(9)]
    too_many = world.api.post("/v1/embeddings", json={"input": images})
    assert_problem(too_many, 413, "too_many_items")
    assert world.public.connections == 0
    searches = [{"query": image} for image in images]
    batch = world.api.post("/v1/collections/c/search/batch", json={"searches": searches})
    assert_problem(batch, 413, "too_many_items")
    assert world.public.connections == 0
    reply = world.api.post("/v1/embeddings", json={"input": images[:8], "on_error": "partial"}).json()
    problems = [entry["problem"]["code"] for entry in reply["data"] if entry["object"] == "error"]
    assert problems == ["image_too_many_bytes"] * 5  # three fit into what a body may have


@contextmanager
def hasty(**times: float) -> Iterator[tuple[Fetcher, Stranger]]:
    """One that waits for nobody, and whom it fetches from."""
    with stranger(PUBLIC) as server:
        world = internet(Names(NAMES), **times)
        allowed = Allowed([f"*:{server.port}"])
        fetcher = Fetcher(allowed, max_bytes=10_000, max_request_bytes=10_000, internet=world)
        yield fetcher, server
        fetcher.close()


@pytest.mark.parametrize("said", [(b"", b""), (HEAD + b"\r\n", b"x"), (HEAD, b"A: b\r\n")])
def test_a_server_that_takes_its_time_is_left(said: tuple[bytes, bytes]) -> None:
    with hasty(picture_s=0.3) as (fetcher, server):
        server.answers["/slow"] = endless(*said, 0.02)
        with pytest.raises(UrlUnreachable) as refused:
            asyncio.run(fetcher.fetch(f"http://cdn.test:{server.port}/slow"))
        assert refused.value.reason == "timeout"


def test_a_server_that_says_nothing_to_the_handshake_is_left() -> None:
    with hasty(connect_s=0.2) as (fetcher, server):
        with pytest.raises(UrlUnreachable) as refused:
            asyncio.run(fetcher.fetch(f"https://cdn.test:{server.port}/"))
        assert refused.value.reason == "timeout"


def test_slow_servers_cannot_hold_a_request_for_longer_than_it_waits_for_all() -> None:
    with hasty(picture_s=60.0, request_s=0.3) as (fetcher, server):
        server.answers |= {f"/{i}": endless(HEAD + b"\r\n", b"x", 0.02) for i in range(20)}
        urls = [f"http://cdn.test:{server.port}/{i}" for i in range(20)]
        started = time.monotonic()
        got = asyncio.run(fetcher.fetch_all(urls))
        assert time.monotonic() - started < 30
        assert list(got) == urls
        assert {type(picture) for picture in got.values()} == {UrlUnreachable}


def test_refusals_are_counted_by_reason(world: World) -> None:
    world.embed("http://10.0.0.1/")
    world.embed("http://a:b@cdn.test/")
    world.embed(cdn(world))
    metrics = world.api.get("/metrics").text
    for reason in ("address", "credentials"):
        assert f'momoseek_fetch_blocked_total{{reason="{reason}"}}' in metrics
    assert 'momoseek_stage_duration_seconds_count{stage="fetch"}' in metrics


# -- where from


@pytest.mark.parametrize(
    ("hosts", "url", "reason"),
    [
        ("cdn.test", "http://cdn.test/x", None),
        ("cdn.test", "https://CDN.test./x", None),
        ("cdn.test", "http://cdn.test:443/x", None),
        ("cdn.test", "http://cdn.test:8443/x", "port"),
        ("cdn.test:8443", "https://cdn.test:8443/x", None),
        ("cdn.test:8443", "https://cdn.test/x", "port"),
        ("cdn.test,cdn.test:8443", "https://cdn.test/x", None),
        ("cdn.test", "http://img.cdn.test/x", "host"),
        ("cdn.test", "http://evilcdn.test/x", "host"),
        ("cdn.test", "http://cdn.test.evil.test/x", "host"),
        ("*.cdn.test", "http://img.cdn.test/x", None),
        ("*.cdn.test", "http://a.b.cdn.test/x", None),
        ("*.cdn.test", "http://cdn.test/x", "host"),
        ("*.cdn.test", "http://evilcdn.test/x", "host"),
        ("cdn.test", "http://8.8.8.8/x", "host"),
        ("8.8.8.8", "http://8.8.8.8/x", None),
        ("*", "http://anything.test/x", None),
        ("*", "http://anything.test:8080/x", "port"),
    ],
)
def test_only_hosts_that_were_named_are_asked(hosts: str, url: str, reason: str | None) -> None:
    allowed = Settings(fetch_hosts=hosts).fetching_from
    if reason is None:
        allowed.check(Target.of(url))
        return
    with pytest.raises(UrlNotAllowed) as refused:
        allowed.check(Target.of(url))
    assert refused.value.reason == reason


def test_a_host_that_was_not_named_is_not_even_looked_up() -> None:
    names = Names({"cdn.test": [[PUBLIC]]})
    fetcher = Fetcher(Allowed(["cdn.test"]), max_bytes=100, max_request_bytes=100, internet=internet(names))
    with pytest.raises(UrlNotAllowed):
        asyncio.run(fetcher.fetch("http://evil.test/"))
    assert names.asked == []
    fetcher.close()


def test_private_networks_are_reached_only_where_they_were_named() -> None:
    allowed = Settings(fetch_hosts="store.test", fetch_networks="10.20.0.0/16, fd00:1::/64").fetching_from
    for address, inside in (
        *(("10.20.3.4", True), ("fd00:1::9", True), ("10.21.0.1", False)),
        *(("fd00:2::9", False), ("127.0.0.1", False), ("::ffff:10.20.3.4", False)),
    ):
        assert allowed.includes(ipaddress.ip_address(address)) == inside


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(
            ("fetch_hosts", value)
            for value in ("http://cdn.test", "cdn.test/x", "a b", "*cdn.test", "a:0", ":80")
        ),
        *(("fetch_networks", value) for value in ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10")),
        *(
            ("fetch_networks", value)
            for value in ("0.0.0.0/0", "10.0.0.1/8", "10.0.0.0/7", "224.0.0.0/4", "x")
        ),
    ],
)
def test_a_setting_that_would_open_too_much_or_nothing_is_refused(setting: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"MOMOSEEK_{setting.upper()}"):
        resolve({}, {f"MOMOSEEK_{setting.upper()}": value})


@pytest.mark.parametrize("url", ["http://cdn.test", "http://cdn.test?x=1", "http://cdn.test/a/../b"])
def test_a_path_is_sent_as_it_is(url: str) -> None:
    assert Target.of(url).request.startswith(
        f"GET {(url.removeprefix('http://cdn.test') or '/').replace('?', '/?', 1)} HTTP/1.1\r\n".encode()
    )


def test_a_hanging_name_server_is_not_waited_for() -> None:
    def never(host: str) -> list[str]:
        time.sleep(0.5)
        return [PUBLIC]

    world = internet(never, connect_s=0.1)
    fetcher = Fetcher(Allowed(["*"]), max_bytes=100, max_request_bytes=100, internet=world)
    with pytest.raises(UrlUnreachable) as refused:
        asyncio.run(fetcher.fetch("http://cdn.test/"))
    assert refused.value.reason == "timeout"
    fetcher.close()


def test_malformed_urls_never_raise_anything_else() -> None:
    for url in ("http://[::1", "http://a:b:c/", "http://[]/", "http://::1/", "http://a]b/", "http:\\\\a/"):
        with pytest.raises(UrlInvalid):
            Target.of(url)


# -- TLS


@pytest.mark.parametrize(
    ("name", "valid_s", "believed", "fetched"),
    [
        ("cdn.test", 3600, True, True),
        ("evil.test", 3600, True, False),
        ("cdn.test", -60, True, False),
        ("cdn.test", 3600, False, False),
    ],
)
def test_tls_is_about_the_name_although_the_connection_is_to_an_address(
    tmp_path: Path, name: str, valid_s: float, believed: bool, fetched: bool
) -> None:
    authority = Authority(tmp_path)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(authority.certificate(name, valid_s))
    trusted = (authority if believed else Authority(tmp_path)).believed()
    world = internet(Names(NAMES), tls=lambda: trusted)
    with stranger(PUBLIC, lambda raw: shown.wrap_socket(raw, server_side=True)) as server:
        server.answers["/red.png"] = answer(square("red"))
        here = Allowed([f"*:{server.port}"])
        fetcher = Fetcher(here, max_bytes=10_000, max_request_bytes=10_000, internet=world)
        url = f"https://cdn.test:{server.port}/red.png"
        if fetched:
            assert asyncio.run(fetcher.fetch(url)) == square("red")
        else:
            with pytest.raises(UrlUnreachable):
                asyncio.run(fetcher.fetch(url))
            assert server.heads == []
    fetcher.close()


# -- bulk jobs


def test_lines_of_a_bulk_job_name_pictures_by_url_a_few_at_a_time(world: World) -> None:
    lock, here, most = threading.Lock(), 0, 0

    def talk(connection: socket.socket) -> None:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.02)
        with lock:
            here -= 1
        connection.sendall(answer(square("blue")))

    world.public.answers |= {f"/{n}": talk for n in range(40)}
    lines: list[dict[str, Any]] = [
        {"item": {"id": f"b{n}", "image": {"url": cdn(world, f"/{n}")}}} for n in range(40)
    ]
    lines += [
        {"custom_id": "private", "item": {"id": "p", "image": {"url": "http://10.0.0.1/x.png"}}},
        {"custom_id": "missing", "item": {"id": "m", "image": cdn(world, "/missing")}},
        {"item": {"id": "words", "text": "blue", "metadata": {"image": {"url": "http://10.0.0.1/"}}}},
    ]
    body = "\n".join(map(json.dumps, lines))
    headers = {"Content-Type": "application/x-ndjson"}
    world.api.put("/v1/collections/bulk")
    job = world.api.post("/v1/collections/bulk/bulk", content=body, headers=headers).json()
    until = time.monotonic() + 60
    while job["state"] not in ("succeeded", "failed") and time.monotonic() < until:
        time.sleep(0.02)
        job = world.api.get(f"/v1/jobs/{job['id']}").json()
    assert (job["state"], job["counts"]["done"], job["counts"]["failed"]) == ("succeeded", 41, 2)
    told = [json.loads(line) for line in world.api.get(job["errors_url"]).text.splitlines()]
    assert {(line["custom_id"], line["line"], line["problem"]["code"]) for line in told} == {
        ("private", 41, "url_not_allowed"),
        ("missing", 42, "url_unreachable"),
    }
    assert 1 < most <= 8
    assert world.api.get("/v1/collections/bulk/images/b7").content == square("blue")
