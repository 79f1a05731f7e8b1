"""Request bodies: JSON and multipart with uploads, each read within its limit, and the items in them."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from index.records import Condition, Mode
from service.drafts import Draft
from service.embedder import TooManyItems
from service.fetch import Fetched, Fetcher
from service.given import Given
from service.images import TooManyBytes, UploadMissing, from_base64
from service.parsing import InvalidBody, parse_json, validated
from service.reading import Part
from service.schemas import (
    Content,
    ContentPart,
    Form,
    ImageRef,
)
from service.schemas_items import (
    ItemRequest,
    ItemsRequest,
)
from service.urls import UrlFetchDisabled

F = TypeVar("F", bound=Form)
M = TypeVar("M", bound=BaseModel)
Uploads = Mapping[str, Fetched]  # pictures by the name of their part, and by URL those that were fetched
_MAX_PARTS = 512
_SCHEMES = ("http://", "https://")
_LARGE_BYTES = 500_000
_MAX_FIELD_BYTES = 32_000_000
_PLAIN = (str, int, float, bool, dict, type(None))  # members of a request that name no picture


class UnsupportedMediaType(ValueError):
    """The body is of a media type that the route does not read."""


class BodyTooLarge(ValueError):
    """The body, or one line of it, is larger than allowed."""


async def read(request: Request, model: type[F]) -> tuple[F, Uploads]:
    """A JSON body, or multipart with the JSON in a part named ``request`` and pictures in the other parts.

    Without a ``request`` part the form's own fields make the JSON (values that are JSON are read as such).
    Pictures that it names by URL are fetched.
    """
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media == "multipart/form-data":
        wanted, parts = await _read_form(request, model)
        return wanted, {**parts, **await fetched(request, wanted)}
    if media != "application/json":
        raise UnsupportedMediaType(f"Send application/json or multipart/form-data, not {media!r}.")
    wanted = await parsed(model, await request.body())
    return wanted, await fetched(request, wanted)


async def fetched(request: Request, wanted: BaseModel | list[M]) -> Uploads:
    """The pictures that a request names by URL, or what is wrong with each. Raises TooManyItems."""
    urls = list(_urls(wanted))
    if not urls:
        return {}
    most = request.app.state.retriever.limits.max_items
    if len(urls) > most:
        raise TooManyItems(f"{len(urls)} pictures by URL; at most {most} are allowed.")
    fetcher: Fetcher = request.app.state.fetcher
    return await fetcher.fetch_all(urls)


async def parsed(model: type[M], data: bytes | bytearray) -> M:
    """JSON as a model; a large one is read on a thread, so that other requests go on meanwhile."""
    if len(data) <= _LARGE_BYTES:
        return validated(model, parse_json(data))
    return await asyncio.to_thread(lambda: validated(model, parse_json(data)))


async def _read_form(request: Request, model: type[F]) -> tuple[F, Mapping[str, bytes]]:
    async with request.form(
        max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=_MAX_FIELD_BYTES
    ) as form:
        uploads: dict[str, bytes] = {}
        fields: dict[str, str | bytes] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name != "request":
                uploads[_free(name, uploads)] = await value.read()
            elif name in fields:
                raise InvalidBody.of([{"pointer": f"/{name}", "detail": "the form has this field twice"}])
            else:
                fields[name] = value if isinstance(value, str) else await value.read()
    whole = fields.pop("request", None)
    if whole is None:
        form_fields = {name: str(value) for name, value in fields.items()}
        return validated(model, model.from_form(form_fields, list(uploads)), strict=False), uploads
    if fields:
        detail = "beside a request part a form has files only"
        raise InvalidBody.of([{"pointer": f"/{next(iter(fields))}", "detail": detail}])
    return await parsed(model, whole if isinstance(whole, bytes) else whole.encode()), uploads


def _free(name: str, taken: Mapping[str, bytes]) -> str:
    """A second part of one name is told apart by a number: file, file.2, file.3."""
    return next(
        free for free in (name, *(f"{name}.{i}" for i in range(2, _MAX_PARTS + 2))) if free not in taken
    )


def image_bytes(image: str | ImageRef, uploads: Uploads, max_bytes: int) -> bytes:
    """The encoded picture that a reference names. Raises what is wrong with the reference."""
    if (url := _url_of(image)) is not None:
        return _fetched(url, uploads)
    if isinstance(image, str):
        return from_base64(image, max_bytes)
    if image.base64 is not None:
        return from_base64(image.base64, max_bytes)
    data = None if image.upload is None else uploads.get(image.upload)
    if not isinstance(data, bytes):
        raise UploadMissing(f"There is no multipart part named {image.upload!r} with a file.")
    if len(data) > max_bytes:
        raise TooManyBytes(f"The picture has more than {max_bytes} bytes.")
    return data


def draft_of(
    value: Any,
    uploads: Uploads,
    max_image_bytes: int,
    condition: Condition | None = None,
    mode: Mode = "upsert",
) -> Draft | Exception:
    """An ItemRequest as an item to write, or what is wrong with it."""
    try:
        item = validated(ItemRequest, value)
        return Draft.of(
            item.id,
            content_parts(item, uploads, max_image_bytes),
            metadata=item.metadata,
            condition=condition,
            given=given_of(item.vector, item.embedding_space),
            modality=item.modality or "image",
            mode=mode,
            version=item.version,
        )
    except ValueError as error:
        return error


def given_of(vector: list[float] | str | None, space: str | None) -> Given | None:
    """A vector that came with a request, if one did."""
    return None if vector is None else Given(vector, space or "")


def content_parts(content: Content, uploads: Uploads, max_bytes: int) -> tuple[Part, ...]:
    """The ordered parts of a document: a picture before its text, or the list as it stands."""
    if content.content is None:
        picture = () if content.image is None else (image_bytes(content.image, uploads, max_bytes),)
        return (*picture, *(() if content.text is None else (content.text,)))
    return tuple(_part(part, uploads, max_bytes) for part in content.content)


def _part(part: ContentPart, uploads: Uploads, max_bytes: int) -> Part:
    if part.text is not None:
        return part.text
    if part.image_base64 is not None:
        return from_base64(part.image_base64, max_bytes)
    url = _image_url(part)
    return from_base64(url, max_bytes) if url.startswith("data:") else _fetched(url, uploads)


def _image_url(part: ContentPart) -> str:
    url = part.image_url
    return str(url.get("url", "") if isinstance(url, dict) else url)


def _url_of(image: str | ImageRef) -> str | None:
    """The URL by which a picture is named, if it is."""
    if isinstance(image, ImageRef):
        return image.url
    return image if image.startswith(_SCHEMES) else None  # no base64: it has colons


def _fetched(url: str, uploads: Uploads) -> bytes:
    picture = uploads.get(url, UrlFetchDisabled())
    if isinstance(picture, Exception):
        raise picture
    return picture


def _urls(value: object) -> Iterator[str]:
    """The URLs by which a request names pictures."""
    if isinstance(value, list):
        for entry in value:
            if type(entry) not in _PLAIN:  # they are many: asking of each whether it is a model takes long
                yield from _urls(entry)
    elif isinstance(value, ItemsRequest):
        yield from (url for item in value.items for url in urls_of_item(item))
    elif isinstance(value, ContentPart):
        if value.image_url is not None and not _image_url(value).startswith("data:"):
            yield _image_url(value)
    elif isinstance(value, BaseModel):
        for name, member in vars(value).items():
            if name in ("image", "anchor") and isinstance(member, str | ImageRef):
                if (url := _url_of(member)) is not None:
                    yield url
            elif type(member) not in _PLAIN:
                yield from _urls(member)


def urls_of_item(item: Any) -> Iterator[str]:
    """The URLs by which an ItemRequest names its pictures; it is not checked yet, and may be anything."""
    if not isinstance(item, dict):
        return
    image, content = item.get("image"), item.get("content")
    url = image.get("url") if isinstance(image, dict) else image if isinstance(image, str) else None
    if isinstance(url, str) and (isinstance(image, dict) or url.startswith(_SCHEMES)):
        yield url
    for part in content if isinstance(content, list) else ():
        url = part.get("image_url") if isinstance(part, dict) else None
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str) and not url.startswith("data:"):
            yield url
