"""What a test of the whole system expects, written by hand: the reason for each fault, and a whole answer."""

from __future__ import annotations

from typing import Any

import pytest

FIRST = {
    "500": "server_error", "502": "server_error", "503": "server_error", "529": "server_error", "408": "server_error",
    "429": "rate_limited", "429-date": "rate_limited", "429-ms": "rate_limited",
    "401": "auth", "403": "auth", "402": "payment", "404": "model_not_found",
    "error-first": "error_event", "empty": "empty", "hang": "first_token_timeout", "silent": "first_token_timeout",
}  # fmt: skip
"""Faults of the fake provider that strike before the first word, and the reason that an attempt must be given."""
MID = {
    "cut": "broken_stream", "reset": "broken_stream", "stall": "stall_timeout", "malformed": "malformed",
    "error-mid": "error_event",
}  # fmt: skip
"""The same for those that strike in the middle of a text."""
ODD = ("ok", "ok-slow", "no-usage", "split-utf8", "comments", "wrong-model")
"""Odd but healthy."""
WHOLE = pytest.mark.parametrize("stream", [True, False], ids=["stream", "single"])


def model_of(name: str, at: str, stream: bool) -> str:
    """The model to ask. One that says when to come again is left alone until then: each way of asking has its own."""
    return f"{name}@{at}" + ("-whole" if (FIRST.get(name) == "rate_limited" or name == "503") and not stream else "")


def tried(end: dict[str, Any]) -> list[tuple[str, str]]:
    return [(a["model"], a["outcome"]) for a in end.get("attempts", ())]


def assert_whole(end: dict[str, Any], reading: Any, text: str) -> None:
    """A finished answer: the text in the end, the text that a reader keeps, and numbers without gaps agree."""
    assert end["type"] == "model.finished.v1", end
    assert end["text"] == text
    assert end.get("recorded", True) is True
    if reading is not None:
        assert reading.text == text
        seqs = [d["seq"] for d in reading.of("delta")]
        assert seqs == list(range(len(seqs)))
        assert end.get("last_seq", -1) == len(seqs) - 1
        assert reading.pieces[0]["type"] == "model.started.v1"
        assert len(reading.of("seam")) == end.get("seams", 0)
