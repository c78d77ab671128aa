"""Quotas of a provider's whole account, as its refusals tell. Pure.

Source: OpenRouter's documentation of limits. A 429 of the platform itself carries `X-RateLimit-Limit`, `-Remaining` and
`-Reset` (Unix milliseconds), in the head or inside the error's metadata; one of an upstream provider does not, and
concerns that model alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

DAY_MS, MINUTE_MS = 86_400_000, 60_000
SECONDS_BELOW = 10**11
"""A time of reset below this cannot be milliseconds: it is read as seconds."""
FREE = ":free"
WINDOWS = ((b"free-models-per-day", DAY_MS), (b"free-models-per-min", MINUTE_MS))
"""How the refusal names the limit that is used up. A day of theirs ends at 00:00 UTC."""


class _Metadata(msgspec.Struct):
    headers: dict[str, Any] | None = None


class _Error(msgspec.Struct):
    metadata: _Metadata | None = None


class _Body(msgspec.Struct):
    error: _Error | None = None


_body = msgspec.json.Decoder(_Body)


def exhausted_until_ms(name: str, status: int, headers: dict[str, str], body: bytes, now_ms: float) -> int | None:
    """Until when (Unix milliseconds) no free model of this account is served; None: the refusal says no such thing.

    `name`: what the provider calls the model; `headers` with names in lower case.
    """
    if status != 429 or not name.endswith(FREE):
        return None
    window_ms = next((ms for words, ms in WINDOWS if words in body), None)
    found = {**_inside(body), **headers}
    if found.get("x-ratelimit-remaining", "" if window_ms is None else "0") != "0":
        return None
    reset_ms = _reset_ms(found.get("x-ratelimit-reset", ""))
    if reset_ms is not None and now_ms < reset_ms <= now_ms + 2 * DAY_MS:
        return reset_ms
    return None if window_ms is None else (int(now_ms) // window_ms + 1) * window_ms


def account_until_ms(kind: str, name: str, status: int, headers: dict[str, str], now_ms: float) -> int | None:
    """Until when (Unix milliseconds) OpenRouter itself serves this account nothing; None: its refusal says no such
    thing, or comes from whoever serves the model, or concerns free models alone."""
    if kind != "openrouter" or status != 429 or name.endswith(FREE):
        return None
    reset_ms = _reset_ms(headers.get("x-ratelimit-reset", ""))
    return reset_ms if reset_ms is not None and now_ms < reset_ms <= now_ms + DAY_MS else None


def _inside(body: bytes) -> dict[str, str]:
    try:
        error = _body.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    inside = error.metadata.headers if error is not None and error.metadata is not None else None
    return {name.lower(): str(value) for name, value in (inside or {}).items()}


def _reset_ms(text: str) -> int | None:
    if not text.isdecimal() or len(text) > 15:
        return None
    return int(text) * 1000 if int(text) < SECONDS_BELOW else int(text)
