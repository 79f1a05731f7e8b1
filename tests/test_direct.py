"""Endpoints that are called as what they are, and those that are left to the framework."""

import asyncio
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, Path, Request, Response
from fastapi.testclient import TestClient

import service.routes
from service.direct import directly
from service.routes import embeddings, search

Name = Annotated[str, Path(pattern="^[a-z]+$")]


async def named(name: Name, request: Request) -> Response:
    return Response(f"{request.method} {name}")


async def modelled(request: Request) -> dict[str, str]:
    return {}


async def dependent(request: Request, needed: Annotated[str, Depends(str)]) -> Response:
    return Response(needed)


async def asking_a_header(request: Request, told: Annotated[str, Header()] = "") -> Response:
    return Response(told)


async def by_query(request: Request, limit: int = 1) -> Response:
    return Response(str(limit))


def blocking(request: Request) -> Response:
    return Response()


async def framework(request: Request) -> Response:
    return Response("framework")


def reply(endpoint: Any, path: str, **parts: str) -> bytes:
    """What the framework's handler or a direct one says to a request with these parts of its path."""

    async def run() -> Response:
        scope = {"type": "http", "method": "GET", "headers": [], "path_params": parts}
        return await directly(endpoint, path, framework)(Request(scope))

    return bytes(asyncio.run(run()).body)


def test_an_endpoint_of_the_request_and_its_path_is_called_as_what_it_is() -> None:
    assert reply(named, "/{name}", name="red") == b"GET red"
    assert reply(framework, "/") == b"framework"


def test_a_part_of_the_path_that_is_not_as_it_should_be_is_left_to_the_framework() -> None:
    assert reply(named, "/{name}", name="Red 1") == b"framework"


@pytest.mark.parametrize("endpoint", [modelled, dependent, asking_a_header, by_query, blocking])
def test_an_endpoint_that_needs_more_is_left_to_the_framework(endpoint: Any) -> None:
    assert directly(endpoint, "/", framework) is framework


def test_what_is_asked_most_is_called_directly() -> None:
    for endpoint, path in (
        (embeddings.embeddings, "/v1/embeddings"),
        (search.search, "/v1/collections/{collection}/search"),
    ):
        assert directly(endpoint, path, framework) is not framework


def test_routes_behind_the_gate_are_called_directly(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolving(**_: Any) -> None:
        raise AssertionError("the framework resolves what nobody asked for")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", resolving)
    assert client.post("/v1/collections/c/search", json={"query": "red"}).status_code == 200
    assert client.post("/v1/embeddings", json={"input": "red"}).status_code == 200
    assert client.get("/v1/collections/c").status_code == 500


def test_no_router_has_dependencies_that_a_direct_call_would_miss() -> None:
    for module in iter_modules(service.routes.__path__):
        assert not import_module(f"service.routes.{module.name}").router.dependencies


def test_a_search_in_what_cannot_be_a_collection_is_refused_as_ever(client: TestClient) -> None:
    refused = client.post("/v1/collections/%20no!/search", json={"query": "red"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/path/collection"
