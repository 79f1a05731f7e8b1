"""docs/api.md, made from the OpenAPI document: ``python -m service.reference docs/api.md`` writes it."""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from service.app import create_app
from service.config import Settings
from service.markdown import listed, pretty, table

Json = dict[str, Any]
_PREFACE = """\
# The REST API

Made from the OpenAPI document (`/openapi.json`; to try at `/docs`) by `make api-doc`. Do not edit.

Bodies are JSON; unknown members are refused. Where *or a form* stands, `multipart/form-data` does too: the
JSON in a part `request` and pictures in other parts, or simply the fields of a form. Once there is an API
key, every request sends one as `Authorization: Bearer KEY` or `X-API-Key: KEY`; each operation says which
scope it needs. `X-Request-Id` and `traceparent` come back as they were sent; where the service sends traces
of its own, `traceparent` as the place of the request in the trace. Errors are problem details (RFC 9457) with
a stable `code`, listed at the [end](#errors). Names in types link to [objects](#objects).
"""
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {} characters",
    "minItems": "≥ {} of them",
    "maxItems": "≤ {} of them",
    "pattern": "matches `{}`",
}
_CAMEL = re.compile(r"\b((?:[A-Z][a-z]+){2,})\b")
_LONG = 40  # characters of a limit; only patterns have more
_TARGET = Path("docs/api.md")


def render(document: Json) -> str:
    """The reference as Markdown: the same for the same document."""
    return _Reference(document).text()


class _Reference:
    """Renders one document, and remembers which schemas were linked: those are told at the end."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._schemas: Json = document["components"]["schemas"]
        self._linked: set[str] = set()
        named = [name for one in self._every_operation() for name in _replies(one).values()]
        self._often = {name for name in named if named.count(name) > 1}
        keyed = [set(_codes(one)) for one in self._every_operation() if "security" in one]
        self._common: set[tuple[str, str]] = set.intersection(*keyed)

    def text(self) -> str:
        """All of it."""
        by_tag: dict[str, list[str]] = {}
        for path, operations in self._document["paths"].items():
            for method, operation in operations.items():
                lines = by_tag.setdefault(operation["tags"][0], [])
                lines += self._operation(method.upper(), path, operation)
        parts = [_PREFACE, f"Whatever needs a key may answer: {listed(self._common)}\n"]
        for tag, lines in by_tag.items():
            parts += [f"## {tag.capitalize()}\n", *lines]
        parts += ["## Objects\n", *self._objects(), "## Errors\n", *self._errors()]
        return "\n".join(parts).rstrip("\n") + "\n"

    def _operation(self, method: str, path: str, operation: Json) -> Iterator[str]:
        yield f"### `{method} {path}`\n"
        scope = next((next(iter(need.values()))[0] for need in operation.get("security", [])), None)
        needed = "open to everybody" if scope is None else f"scope `{scope}`"
        yield f"`{operation['operationId']}` · {needed}\n"
        yield operation["description"] + "\n"
        own = [parameter for parameter in operation["parameters"] if "$ref" not in parameter]
        if own:
            yield from table(("Parameter", "Type", "Default", ""), map(self._parameter, own))
        body = operation.get("requestBody")
        if body is not None:
            yield from self._body(body)
        yield f"```bash\n{self._curl(method, path, operation)}\n```\n"
        for status, reply in operation["responses"].items():
            if "application/problem+json" not in reply.get("content", {}):
                yield from self._reply(status, reply)
        rare = _codes(operation).keys() - self._common
        if rare:
            yield f"Errors: {listed(rare)}\n"

    def _parameter(self, parameter: Json) -> tuple[str, ...]:
        schema = parameter["schema"]
        name, place = parameter["name"], parameter["in"]
        told = parameter.get("description", schema.get("description", ""))
        default = _default(schema, required=parameter.get("required", False))
        return (f"`{name}` ({place})", self._type(schema), default, told)

    def _body(self, body: Json) -> Iterator[str]:
        media, content = next(iter(body["content"].items()))
        form = " or a form" if "multipart/form-data" in body["content"] else ""
        optional = "" if body["required"] else ", optional"
        name = _name(content["schema"])
        if name is None:
            yield f"Request: `{media}`{optional}.\n"
            return
        yield f"Request{form}{optional}: {self._told(name)}\n"
        yield from self._fields(name)

    def _reply(self, status: str, reply: Json) -> Iterator[str]:
        contents: dict[str | None, Json] = reply.get("content", {})
        media, content = next(iter(contents.items()), (None, {}))
        schema: Json = content.get("schema", {})
        name = _name(schema)
        if media is None or not schema:
            yield f"Reply {status}: {reply['description']}.\n"
            return
        if name is None or name in self._often or media != "application/json":
            yield f"Reply {status}: {self._type(schema)} (`{media}`).\n"
            return
        yield f"Reply {status}: {self._told(name)}\n"
        yield from self._fields(name)
        yield from self._example_of(name)

    def _example_of(self, name: str) -> Iterator[str]:
        for shown in self._schemas[name].get("examples", [])[:1]:
            yield f"```json\n{pretty(self._ordered(shown, self._schemas[name]))}\n```\n"

    def _told(self, name: str) -> str:
        return self._linking(self._schemas[name].get("description", ""))

    def _linking(self, text: str) -> str:
        """A description in one paragraph, with links to the objects that it names."""
        words = _CAMEL.split(" ".join(text.split()))
        return "".join(
            self._link(word) if word in self._schemas and i % 2 else word for i, word in enumerate(words)
        )

    def _link(self, name: str) -> str:
        self._linked.add(name)
        return f"[{name}](#{name.lower()})"

    def _fields(self, name: str) -> Iterator[str]:
        schema = self._schemas[name]
        required = schema.get("required", [])
        reply = schema.get("additionalProperties") is not False
        rows = [
            (
                f"`{field}`",
                self._type(of) + null,
                "" if reply else _default(of, required=field in required),
                told,
            )
            for field, of in schema["properties"].items()
            for told in [self._linking(of.get("description", ""))]
            for null in [" or null" if field in required and {"type": "null"} in of.get("anyOf", []) else ""]
        ]
        if reply:
            yield from table(("Field", "Type", ""), [(field, of, told) for field, of, _, told in rows])
        else:
            yield from table(("Field", "Type", "Default", ""), rows)

    def _objects(self) -> Iterator[str]:
        texts: dict[str, str] = {}
        while missing := self._linked - texts.keys():  # each may link others
            for name in missing:
                lines = [f"### {name}\n", self._told(name) + "\n", *self._fields(name)]
                texts[name] = "\n".join([*lines, *(self._example_of(name) if name in self._often else [])])
        yield from (texts[name] for name in sorted(texts))

    def _errors(self) -> Iterator[str]:
        found = dict(pair for one in self._every_operation() for pair in _codes(one).items())
        rows = [(status, f"`{code}`", title) for (status, code), title in sorted(found.items())]
        yield from table(("Status", "Code", ""), rows)

    def _every_operation(self) -> Iterator[Json]:
        for operations in self._document["paths"].values():
            yield from operations.values()

    def _type(self, schema: Json) -> str:
        """A schema in a few words, with its limits."""
        words = self._kind(schema)
        limits = [
            text.format(schema[name])
            for name, text in _LIMITS.items()
            if name in schema and len(str(schema[name])) <= _LONG
        ]
        return ", ".join([words, *limits])

    def _kind(self, schema: Json) -> str:
        if (name := _name(schema)) is not None:
            return self._link(name)
        choices: list[Json] = schema.get("anyOf") or schema.get("oneOf") or []
        members = [one for one in choices if one.get("type") != "null"]
        if members:
            return " or ".join(dict.fromkeys(map(self._type, members)))
        if "const" in schema:
            return f"`{json.dumps(schema['const'])}`"
        if "enum" in schema:
            return " ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
        kind = str(schema.get("type", "any JSON"))
        if kind == "array":
            return f"list of {self._type(schema.get('items', {}))}"
        values = schema.get("additionalProperties")
        if kind == "object" and isinstance(values, dict):
            return f"object of {self._type(values)}"
        return kind

    def _curl(self, method: str, path: str, operation: Json) -> str:
        for parameter in operation["parameters"]:
            if parameter.get("in") == "path":
                path = path.replace("{" + parameter["name"] + "}", str(example_of(parameter)))
        words = ["curl", *([] if method == "GET" else [f"-X {method}"]), f"http://127.0.0.1:8000{path}"]
        media, sent = self.example(operation)
        if sent is None:
            return " ".join(words)
        schema = operation["requestBody"]["content"][media]["schema"]
        body = sent if isinstance(sent, str) else pretty(self._ordered(sent, schema))
        quoted = body.replace("'", "'\\''")
        flag = "-d" if media == "application/json" else "--data-binary"
        return " ".join([*words, f"-H 'Content-Type: {media}'"]) + f" {flag} '{quoted}'"

    def _ordered(self, value: Any, schema: Json) -> Any:
        """A value with the members of its objects in the order of their schemas."""
        name = _name(schema)
        schema = schema if name is None else self._schemas[name]
        if isinstance(value, list):
            return [self._ordered(one, schema.get("items", {})) for one in value]
        if not isinstance(value, dict):
            return value
        known = {**schema.get("properties", {})}
        known |= {member: {} for member in value if member not in known}
        return {member: self._ordered(value[member], known[member]) for member in known if member in value}

    def example(self, operation: Json) -> tuple[str, Any]:
        """The media type of an operation's body and an example of it; None where it needs none."""
        content = operation.get("requestBody", {}).get("content", {})
        for media, of in content.items():
            name = _name(of["schema"])
            known = [] if name is None else self._schemas[name].get("examples", [])
            return media, of.get("example", next(iter(known), None))
        return "", None


def example_of(parameter: Json) -> Any:
    """An example of a parameter's value."""
    return next(iter(parameter["schema"].get("examples", parameter.get("examples", []))), None)


def _name(schema: Json) -> str | None:
    """The name of the schema that a reference is to."""
    return str(schema["$ref"]).rpartition("/")[2] if "$ref" in schema else None


def _replies(operation: Json) -> dict[str, str]:
    """The names of what an operation replies in JSON, by status."""
    return {
        status: name
        for status, reply in operation["responses"].items()
        for schema in [reply.get("content", {}).get("application/json", {}).get("schema", {})]
        if (name := _name(schema)) is not None
    }


def _codes(operation: Json) -> dict[tuple[str, str], str]:
    """The titles of an operation's problems by status and code."""
    return {
        (status, code): example["summary"]
        for status, reply in operation["responses"].items()
        for problem in [reply.get("content", {}).get("application/problem+json", {})]
        for code, example in problem.get("examples", {}).items()
    }


def _default(schema: Json, *, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default in (None, "") else f"`{json.dumps(default)}`"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the reference to a file, docs/api.md if none is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", default=_TARGET)
    target: Path = parser.parse_args(arguments).target
    target.write_text(render(create_app(Settings()).openapi()))


if __name__ == "__main__":
    main()
