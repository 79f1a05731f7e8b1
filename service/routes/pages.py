"""The page for people, and the description of each kind of problem."""

from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from service.auth import Guarded
from service.kinds import (
    INTERNAL,
    TABLE,
    Kind,
    http_kind,
)

router = APIRouter(route_class=Guarded, include_in_schema=False)
_WEB = files("service") / "web"
_SWAGGER = files("fastapi_swagger") / "resources"
_HTTP_KINDS = [http_kind(status) for status in HTTPStatus if status >= 400]
_KINDS: dict[str, Kind] = {kind.code: kind for kind in (*_HTTP_KINDS, *TABLE.values(), INTERNAL)}
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


@router.get("/")
async def page() -> Response:
    """The search page."""
    return _file(_WEB, "index.html", _SECURITY)


@router.get("/web/{name}")
async def asset(name: str) -> Response:
    """One of the page's own files."""
    return _file(_WEB, name, _SECURITY)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API to read and try, by Swagger UI."""
    return get_swagger_ui_html(
        openapi_url=str(request.app.openapi_url),
        title="momoseek API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon-32x32.png",
    )


@router.get("/docs/{name}")
async def docs_asset(name: str) -> Response:
    """One of Swagger UI's files, from the installed package."""
    return _file(_SWAGGER, name)


@router.get("/problems/{code}")
async def problem(code: str) -> dict[str, str | int]:
    """What a problem's ``type`` refers to."""
    if code not in _KINDS:
        raise HTTPException(404, f"There is no kind of problem {code!r}.")
    kind = _KINDS[code]
    return {"code": kind.code, "status": kind.status, "title": kind.title}


def _file(folder: Traversable, name: str, headers: dict[str, str] | None = None) -> Response:
    media = _TYPES.get("." + name.rpartition(".")[2])
    if media is None or name not in {entry.name for entry in folder.iterdir()}:
        raise HTTPException(404, "There is no such page.")
    return FileResponse(str(folder / name), media_type=media, headers=headers)
