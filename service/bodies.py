"""Request bodies: JSON, multipart with uploads, and lines, each read within its limit."""

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from service.embedder import Part
from service.images import TooManyBytes, UploadMissing, UrlFetchDisabled, from_base64
from service.schemas import Content, Form, ImageRef

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound=Form)
Uploads = Mapping[str, bytes]
_MAX_PARTS = 512
_MAX_FIELD_BYTES = 32_000_000


class InvalidJson(ValueError):
    """The body is not JSON."""


class InvalidBody(ValueError):
    """The body is JSON of the wrong shape. ``errors`` has a pointer and a detail for each finding."""

    def __init__(self, message: str, errors: list[dict[str, str]], param: str | None) -> None:
        super().__init__(message)
        self.errors = errors
        self.param = param

    @staticmethod
    def of(findings: list[dict[str, str]]) -> "InvalidBody":
        """From findings, the first of which becomes the message."""
        first = findings[0]
        return InvalidBody(f"{first['pointer']}: {first['detail']}", findings, first["pointer"])


class UnsupportedMediaType(ValueError):
    """The body is of a media type that the route does not read."""


class BodyTooLarge(ValueError):
    """The body, or one line of it, is larger than allowed."""


class TooManyItems(ValueError):
    """The request holds more items than allowed."""


def parse_json(data: bytes | str) -> Any:
    """Strict JSON: no NaN, and no text that could not be stored. Raises InvalidJson, InvalidBody."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}") from error
    escaped = b"\\u" in data if isinstance(data, bytes) else "\\u" in data
    if escaped:  # only an escape can smuggle in half a surrogate pair or a NUL
        try:
            text = json.dumps(value, ensure_ascii=False)
            text.encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise InvalidBody.of([{"pointer": "/", "detail": "a string is not valid Unicode"}]) from error
        if "\\u0000" in text:
            raise InvalidBody.of([{"pointer": "/", "detail": "a string holds a NUL character"}])
    return value


def validated(model: type[M], value: Any) -> M:
    """``value`` as a model. Raises InvalidBody."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        findings = [
            {"pointer": "/" + "/".join(str(part) for part in entry["loc"]), "detail": str(entry["msg"])}
            for entry in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidBody.of(findings) from error


async def read(request: Request, model: type[F]) -> tuple[F, Uploads]:
    """A JSON body, or multipart with the JSON in a part named ``request`` and pictures in the other parts.

    Without a ``request`` part the form's own fields make the JSON (values that are JSON are read as such).
    """
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media == "multipart/form-data":
        return await _read_form(request, model)
    if media != "application/json":
        raise UnsupportedMediaType(f"Send application/json or multipart/form-data, not {media!r}.")
    return validated(model, parse_json(await request.body())), {}


async def _read_form(request: Request, model: type[F]) -> tuple[F, Uploads]:
    async with request.form(
        max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=_MAX_FIELD_BYTES
    ) as form:
        uploads: dict[str, bytes] = {}
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                uploads[_free(name, uploads)] = await value.read()
            else:
                fields[name] = value
    if "request" in fields:
        return validated(model, parse_json(fields["request"])), uploads
    return validated(model, model.from_form(fields, list(uploads))), uploads


def _free(name: str, taken: Mapping[str, bytes]) -> str:
    """A second part of one name is told apart by a number: file, file.2, file.3."""
    return (
        name
        if name not in taken
        else next(n for i in range(2, _MAX_PARTS) if (n := f"{name}.{i}") not in taken)
    )


async def lines(request: Request, max_line_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a streamed body, without holding more than one of them. Raises BodyTooLarge."""
    rest = bytearray()
    async for chunk in request.stream():
        rest += chunk
        *whole, last = rest.split(b"\n")
        rest = bytearray(last)
        if max(map(len, (*whole, last))) > max_line_bytes:
            raise BodyTooLarge(f"A line has more than {max_line_bytes} bytes.")
        for line in whole:
            yield bytes(line)
    if rest:
        yield bytes(rest)


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


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} does not fit")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
