"""API keys as JSON."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from service.schemas import COLLECTION_PATTERN, Strict, example

if TYPE_CHECKING:  # clients have no use for what this brings
    from index.keys import Key


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a name holds printable characters only")
    return value


class KeyRequest(Strict):
    """A key to make."""

    model_config = example(name="nightly batch", scope="write", collections=["shop"])

    name: Annotated[
        str,
        Field(min_length=1, max_length=100, description="for people: who uses it, or for what"),
        AfterValidator(_printable),
    ]
    scope: Literal["read", "write", "admin"] = Field(description="each includes those before it")
    collections: (
        Annotated[
            list[Annotated[str, Field(pattern=COLLECTION_PATTERN)]], Field(min_length=1, max_length=100)
        ]
        | None
    ) = Field(None, description="the only ones that it may touch; absent: all")


class KeyReply(BaseModel):
    """A key as it stands; ``prefix`` is the beginning of the secret, and its name in logs."""

    prefix: str = Field(description="the beginning of the secret, and the key's name in logs")
    name: str = Field(description="as it was given")
    scope: Literal["read", "write", "admin"] = Field(description="each includes those before it")
    collections: list[str] | None = Field(None, description="the only ones that it may touch; null: all")
    created_at: float = Field(description="seconds since the epoch")
    last_used_at: float | None = Field(None, description="exact to a minute")
    revoked_at: float | None = Field(None, description="null while it is good")

    @classmethod
    def of(cls, key: "Key") -> "KeyReply":
        """A key as clients see it."""
        return cls.model_validate(vars(key))


_KEY = {
    "prefix": "momo_0123456789ab",
    "name": "nightly batch",
    "scope": "write",
    "collections": ["shop"],
    "created_at": 1_790_812_800.0,
    "last_used_at": None,
    "revoked_at": None,
}


class KeyCreated(BaseModel):
    """A key, and its secret."""

    model_config = example(key="momo_0123456789ab_…", about=_KEY)

    key: str = Field(description="the secret: shown this once and kept nowhere")
    about: KeyReply = Field(description="what is kept of it")


class KeyList(BaseModel):
    """A page of keys."""

    model_config = example(keys=[_KEY], next_cursor="momo_0123456789ab")

    keys: list[KeyReply] = Field(description="in order of creation")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")
