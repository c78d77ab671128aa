"""How `models pull` shows where it is: bytes, share and speed, on one line that is rewritten."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from understudy.messages.pulls import PullProgress
from understudy.tools import models
from understudy.tools.common import DEFAULT_STATE
from understudy.tools.pull import Line, shown


def at(completed: int, status: str = "pulling 5f8b", total: int = 2_000_000_000) -> PullProgress:
    return PullProgress(status=status, digest="d", total_bytes=total, completed_bytes=completed)


@pytest.mark.parametrize(
    ("said", "speed", "words"),
    [
        (PullProgress(), 0.0, "asked"),
        (PullProgress(status="pulling manifest"), 0.0, "pulling manifest"),
        (at(0), 0.0, "pulling 5f8b  0 B of 2 GB  0 %"),
        (at(999_600), 0.0, "pulling 5f8b  1 MB of 2 GB  0 %"),
        (at(1_234_567_890), 34_560_000.0, "pulling 5f8b  1.23 GB of 2 GB  61 %  34.6 MB/s"),
        (at(2_000_000_000), 999.0, "pulling 5f8b  2 GB of 2 GB  100 %  999 B/s"),
    ],
)
def test_what_is_shown(said: PullProgress, speed: float, words: str) -> None:
    assert shown(said, speed) == words


def test_one_line_is_rewritten_and_ended_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    line = Line(rewritten=True)
    line.show(at(0))
    line.show(at(1_000_000))
    line.end()
    line.end()
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.endswith("\n")
    first, second = out.rstrip("\n").split("\r\x1b[K")[1:]
    assert (first, second) == ("pulling 5f8b  0 B o", "pulling 5f8b  1 MB "), "no longer than the terminal is wide"


def test_elsewhere_each_status_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line(rewritten=False)
    for said in (PullProgress(), PullProgress(), at(0), at(1), at(1, "verifying")):
        line.show(said)
    line.end()
    assert [one.split("  ")[0] for one in capsys.readouterr().out.splitlines()] == [
        "asked",
        "pulling 5f8b",
        "verifying",
    ]


@pytest.mark.parametrize("before", [True, False])
def test_where_to_ask_may_be_said_before_the_verb_or_behind_it(before: bool) -> None:
    where, verb = ["--nats", "nats://there:1", "--state", "there", "--json"], ["pull", "home", "tale"]
    parser = argparse.ArgumentParser()
    models.add(parser)
    args = parser.parse_args([*where, *verb] if before else [*verb, *where])
    assert (args.nats, args.state, args.json) == ("nats://there:1", Path("there"), True)
    args = parser.parse_args(verb)
    assert (args.nats, args.state, args.json) == (None, DEFAULT_STATE, False)
