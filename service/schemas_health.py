"""Readiness as JSON."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.schemas import example


class Check(BaseModel):
    """One thing that must be in order."""

    ok: bool = Field(description="whether it is")
    reason: str | None = Field(None, description="why it is not")
    detail: dict[str, Any] = Field(default_factory=dict, description="what was seen")


class Readiness(BaseModel):
    """Whether the service can answer."""

    model_config = example(
        status="ready", checks={"encoder": {"ok": True, "detail": {"canary_cosine": 0.99998}}}
    )

    status: Literal["ready", "not_ready"] = Field(description="not_ready while a check is not ok")
    checks: dict[str, Check] = Field(description="by name")
