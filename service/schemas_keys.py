"""API keys as JSON."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from index.keys import Key
from service.schemas import COLLECTION_PATTERN, Strict


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a name holds printable characters only")
    return value


class KeyRequest(Strict):
    """A key to make."""

    name: Annotated[
        str, Field(min_length=1, max_length=100, examples=["nightly batch"]), AfterValidator(_printable)
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

    prefix: str
    name: str
    scope: Literal["read", "write", "admin"]
    collections: list[str] | None = None
    created_at: float
    last_used_at: float | None = Field(None, description="exact to a minute")
    revoked_at: float | None = None

    @classmethod
    def of(cls, key: Key) -> "KeyReply":
        """A key as clients see it."""
        return cls.model_validate(vars(key))


class KeyCreated(BaseModel):
    key: str = Field(description="the secret: shown this once and kept nowhere")
    about: KeyReply


class KeyList(BaseModel):
    keys: list[KeyReply]
    next_cursor: str | None
