"""Endpoints that ask for nothing but the request and parts of its path, called as what they are."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from fastapi import Request, Response
from pydantic import TypeAdapter, ValidationError

Handle = Callable[[Request], Awaitable[Response]]


def directly(endpoint: Callable[..., Any], path: str, handle: Handle) -> Handle:
    """What ``handle``, the framework's own, does for requests to ``path``, with less on the way if it can be.

    It can where the endpoint makes its reply itself and depends on nothing else. Parts of the path that are
    not as its signature says are left to the framework to refuse.
    """
    hints = get_type_hints(endpoint, include_extras=True)
    made = hints.pop("return", None)
    if not (inspect.iscoroutinefunction(endpoint) and isinstance(made, type) and issubclass(made, Response)):
        return handle
    asked = [name for name, hint in hints.items() if hint is Request]
    parameters = inspect.signature(endpoint).parameters.keys()
    if len(asked) != 1 or any(f"{{{name}}}" not in path for name in parameters - asked):
        return handle
    (request_name,) = asked
    parts = {name: TypeAdapter[Any](hint) for name, hint in hints.items() if name != request_name}

    async def direct(request: Request) -> Response:
        try:
            given = {name: part.validate_python(request.path_params[name]) for name, part in parts.items()}
        except ValidationError:
            return await handle(request)
        response: Response = await endpoint(**{request_name: request}, **given)
        return response

    return direct
