"""How many requests a key may make."""

from pathlib import Path

import pytest

from service.quota import Quota, RateLimited
from tests.guarded import guarded
from tests.problems import assert_problem


def test_a_quota_gives_a_minutes_worth_at_once_and_then_one_at_a_time() -> None:
    now = 100.0
    quota = Quota(3, clock=lambda: now)
    for _ in range(3):
        quota.take("a")
    with pytest.raises(RateLimited) as refused:
        quota.take("a")
    assert refused.value.retry_after_s == 20
    quota.take("b")
    now += 19
    with pytest.raises(RateLimited) as refused:
        quota.take("a")
    assert refused.value.retry_after_s == 1
    now += 1.01
    quota.take("a")
    now += 3600
    for _ in range(3):
        quota.take("a")
    with pytest.raises(RateLimited):
        quota.take("a")


def test_a_quota_tells_what_is_left_and_when_all_is_there_again() -> None:
    now = 100.0
    quota = Quota(3, clock=lambda: now)
    assert dict(quota.headers("a"))[b"ratelimit"] == b'"key";r=3;t=0'
    quota.take("a")
    quota.take("a")
    assert quota.headers("a") == [(b"ratelimit-policy", b'"key";q=3;w=60'), (b"ratelimit", b'"key";r=1;t=40')]
    now += 10
    assert dict(quota.headers("a"))[b"ratelimit"] == b'"key";r=1;t=30'
    now += 10
    assert dict(quota.headers("a"))[b"ratelimit"] == b'"key";r=2;t=20'
    assert Quota(0).headers("a") == []


def test_a_key_over_its_quota_is_told_when_to_come_back_and_others_go_on(tmp_path: Path) -> None:
    with guarded(tmp_path, max_requests_per_minute=2) as locked:
        read = locked.headers("read")
        assert locked.api.get("/v1/models", headers=read).headers["ratelimit"].startswith('"key";r=1;t=')
        last = locked.api.get("/v1/nothing/of/this/name", headers=read)
        assert "ratelimit" not in last.headers
        last = locked.api.get("/v1/collections/missing", headers=read)
        assert_problem(last, 404, "collection_not_found")
        assert last.headers["ratelimit"].startswith('"key";r=0;t=')
        reply = locked.api.get("/v1/models", headers=read)
        assert_problem(reply, 429, "rate_limited")
        assert reply.headers["ratelimit-policy"] == '"key";q=2;w=60'
        assert 55 <= int(reply.headers["ratelimit"].removeprefix('"key";r=0;t=')) <= 60
        assert 25 <= int(reply.headers["retry-after"]) <= 30
        assert locked.api.get("/v1/models", headers=locked.headers("admin")).status_code == 200
        assert locked.api.get("/livez").status_code == 200
        shown = locked.api.get("/metrics").text
        assert 'momoseek_rejected_total{reason="rate_limited"} 1.0' in shown


def test_callers_without_number_leave_nothing_behind_once_they_are_quiet() -> None:
    now = 100.0
    quota = Quota(60, clock=lambda: now)
    for i in range(5000):
        now += 0.5  # each bucket is full again after a second
        quota.take(f"jwt:{i}")
    assert len(quota._buckets) <= 1024
    for _ in range(60):
        quota.take("busy")
    for i in range(3000):
        quota.take(f"at once {i}")
    with pytest.raises(RateLimited):
        quota.take("busy")
