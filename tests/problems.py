"""What every refusal must look like."""

from typing import Any


def assert_problem(reply: Any, status: int, code: str) -> None:
    """The reply is problem+json with this status and code, and the members that clients rely on."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"/problems/{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["x-request-id"]
