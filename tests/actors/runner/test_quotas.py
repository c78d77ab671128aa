"""Which 429 says that a whole account's free models are used up, and until when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from understudy.actors.runner.quotas import DAY_MS, MINUTE_MS, exhausted_until_ms

NOW = 1_795_350_123_456.0
MIDNIGHT = (int(NOW) // DAY_MS + 1) * DAY_MS
DAILY = {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day."}}
UPSTREAM = {"error": {"code": 429, "message": "Provider returned error", "metadata": {"provider_name": "X"}}}


def limits(reset: int | str, remaining: str = "0") -> dict[str, str]:
    return {"x-ratelimit-limit": "50", "x-ratelimit-remaining": remaining, "x-ratelimit-reset": str(reset)}


def inside(headers: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": 429, "message": "Rate limit exceeded.", "metadata": {"headers": headers}}}


CASES: list[tuple[str, dict[str, str], Any, int | None]] = [
    ("milliseconds", limits(MIDNIGHT), DAILY, MIDNIGHT),
    ("seconds", limits(MIDNIGHT // 1000), DAILY, MIDNIGHT),
    ("no words, but the limit's headers", limits(MIDNIGHT), {"error": {"message": "?"}}, MIDNIGHT),
    ("inside the error", {}, inside({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(MIDNIGHT)}), MIDNIGHT),
    ("numbers inside", {}, inside({"X-RateLimit-Remaining": 0, "X-RateLimit-Reset": MIDNIGHT}), MIDNIGHT),
    ("words alone: a day of theirs ends at 00:00 UTC", {}, DAILY, MIDNIGHT),
    (
        "words alone: a minute",
        {},
        {"error": {"message": "free-models-per-min"}},
        (int(NOW) // MINUTE_MS + 1) * MINUTE_MS,
    ),
    ("a reset that is over", limits(int(NOW) - 1), DAILY, MIDNIGHT),
    ("a reset too far ahead", limits(int(NOW) + 9 * DAY_MS), DAILY, MIDNIGHT),
    ("a reset that is none", limits("soon"), DAILY, MIDNIGHT),
    ("headers alone, senseless", limits("soon"), UPSTREAM, None),
    ("something is left", limits(MIDNIGHT, "3"), DAILY, None),
    ("an upstream provider's own", {"retry-after": "3"}, UPSTREAM, None),
    ("no JSON", {}, b"<html>", None),
    ("not the shape", {}, {"error": "no"}, None),
]


@pytest.mark.parametrize(("_", "headers", "body", "until_ms"), CASES)
def test_refusals(_: str, headers: dict[str, str], body: Any, until_ms: int | None) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert exhausted_until_ms("org/m:free", 429, headers, payload, NOW) == until_ms
    assert exhausted_until_ms("org/m", 429, headers, payload, NOW) is None
    assert exhausted_until_ms("org/m:free", 503, headers, payload, NOW) is None
