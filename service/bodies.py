"""Request bodies: JSON and multipart with uploads, each read within its limit, and the items in them."""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from index.records import Condition
from service.drafts import Draft
from service.embedder import Part
from service.images import TooManyBytes, UploadMissing, UrlFetchDisabled, from_base64
from service.parsing import InvalidBody, parse_json, validated
from service.schemas import Content, Form, ImageRef, ItemRequest

F = TypeVar("F", bound=Form)
M = TypeVar("M", bound=BaseModel)
Uploads = Mapping[str, bytes]
_MAX_PARTS = 512
_LARGE_BYTES = 500_000
_MAX_FIELD_BYTES = 32_000_000


class UnsupportedMediaType(ValueError):
    """The body is of a media type that the route does not read."""


class BodyTooLarge(ValueError):
    """The body, or one line of it, is larger than allowed."""


async def read(request: Request, model: type[F]) -> tuple[F, Uploads]:
    """A JSON body, or multipart with the JSON in a part named ``request`` and pictures in the other parts.

    Without a ``request`` part the form's own fields make the JSON (values that are JSON are read as such).
    """
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media == "multipart/form-data":
        return await _read_form(request, model)
    if media != "application/json":
        raise UnsupportedMediaType(f"Send application/json or multipart/form-data, not {media!r}.")
    return await parsed(model, await request.body()), {}


async def parsed(model: type[M], data: bytes | bytearray) -> M:
    """JSON as a model; a large one is read on a thread, so that other requests go on meanwhile."""
    if len(data) <= _LARGE_BYTES:
        return validated(model, parse_json(data))
    return await asyncio.to_thread(lambda: validated(model, parse_json(data)))


async def _read_form(request: Request, model: type[F]) -> tuple[F, Uploads]:
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
    if isinstance(image, str):
        return from_base64(image, max_bytes)
    if image.url is not None:
        raise UrlFetchDisabled("Send the picture itself: as base64, a data: URI, or a multipart upload.")
    if image.base64 is not None:
        return from_base64(image.base64, max_bytes)
    if image.upload is None or image.upload not in uploads:
        raise UploadMissing(f"There is no multipart part named {image.upload!r} with a file.")
    data = uploads[image.upload]
    if len(data) > max_bytes:
        raise TooManyBytes(f"The picture has more than {max_bytes} bytes.")
    return data


def draft_of(
    value: Any, uploads: Uploads, max_image_bytes: int, condition: Condition | None = None
) -> Draft | Exception:
    """An ItemRequest as an item to write, or what is wrong with it."""
    try:
        item = validated(ItemRequest, value)
        image = None if item.image is None else image_bytes(item.image, uploads, max_image_bytes)
        return Draft(item.id, item.text, image, item.metadata, condition)
    except ValueError as error:
        return error


def content_parts(content: Content, uploads: Uploads, max_bytes: int) -> tuple[Part, ...]:
    """The ordered parts of a document: a picture before its text, or the list as it stands."""
    if content.content is None:
        picture = () if content.image is None else (image_bytes(content.image, uploads, max_bytes),)
        return (*picture, *(() if content.text is None else (content.text,)))
    return tuple(_part(part.model_dump(exclude_unset=True), max_bytes) for part in content.content)


def _part(part: dict[str, Any], max_bytes: int) -> Part:
    if part["type"] == "text":
        return str(part["text"])
    url = part.get("image_base64") or part.get("image_url")
    text = str(url.get("url", "") if isinstance(url, dict) else url)
    if part["type"] == "image_url" and not text.startswith("data:"):
        raise UrlFetchDisabled("Send the picture itself as a data: URI.")
    return from_base64(text, max_bytes)
