"""The page for people, and the description of each kind of problem."""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from service.errors import INTERNAL, TABLE, Kind

router = APIRouter(include_in_schema=False)
WEB = files("service") / "web"
_KINDS: dict[str, Kind] = {kind.code: kind for kind in (*TABLE.values(), INTERNAL)}
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@router.get("/")
async def page() -> Response:
    """The search page."""
    return _file("index.html")


@router.get("/web/{name}")
async def asset(name: str) -> Response:
    """One of the page's own files."""
    return _file(name)


@router.get("/problems/{code}")
async def problem(code: str) -> dict[str, str | int]:
    """What a problem's ``type`` refers to."""
    if code not in _KINDS:
        raise HTTPException(404, f"There is no kind of problem {code!r}.")
    kind = _KINDS[code]
    return {"code": kind.code, "status": kind.status, "title": kind.title}


def _file(name: str) -> Response:
    path = WEB / name
    media = _TYPES.get("." + name.rpartition(".")[2])
    if media is None or not path.is_file():  # only known kinds; a name never holds a slash here
        raise HTTPException(404, f"There is no page {name!r}.")
    return FileResponse(str(path), media_type=media, headers=_SECURITY)
