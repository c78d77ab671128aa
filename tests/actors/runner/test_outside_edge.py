"""The HTTP edge of a provider elsewhere: nothing is sent, nor connected, that has not passed; orders are screened."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.waiting import until
from understudy.actors.host.logs import Log
from understudy.actors.runner.http_edge import HttpEdge
from understudy.actors.runner.screener import INLINE_CHARS, Screener
from understudy.messages.generate import Parameters, Turn
from understudy.messages.privacy import Outbound
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallFailed, CallModel, CallSent, Screen, Screened
from understudy.messages.topology import Model, Provider
from understudy.tools.fake.server import FakeProvider

MAIL = "anna.berg@lantern.org"


def run(text: str) -> RunModel:
    parameters = Parameters(max_tokens=50, temperature=0.0, top_p=1.0, seed=1)
    turns = (Turn(role="user", content=text),)
    return RunModel(run_id="r", attempt=0, model="ok", messages=turns, parameters=parameters, remaining_ms=1e4)


class Outside:
    """An edge whose provider is declared to compute elsewhere."""

    def __init__(self, url: str) -> None:
        provider = Provider(kind="openai", url=url, location="external")
        self.edge = HttpEdge(provider, {"ok": Model(provider="far")}, None, lambda: 0.0)
        self.fed: list[Any] = []
        self.lines: list[dict[str, Any]] = []
        self.edge.audit = lambda event, **facts: self.lines.append({"event": event, **facts})

    def of(self, kind: Any) -> list[Any]:
        return [m for m in self.fed if isinstance(m, kind)]


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


@pytest_asyncio.fixture
async def outside(fake: FakeProvider) -> AsyncIterator[Outside]:
    found = Outside(fake.url)
    await found.edge.start(found.fed.append)
    yield found
    await found.edge.stop()


async def test_what_has_not_passed_the_gate_is_not_sent(fake: FakeProvider, outside: Outside) -> None:
    outside.edge.perform(CallModel("c", run("Walk.")))
    assert outside.fed == []  # a step is being performed
    await until(lambda: outside.fed)
    (failed,) = outside.fed
    assert isinstance(failed, CallFailed) and failed.reason == "blocked"
    assert len(fake.log) == 0 and outside.edge.calls == {} and outside.lines == []


async def test_what_has_passed_is_sent_counted_and_written_down(fake: FakeProvider, outside: Outside) -> None:
    outside.edge.perform(CallModel("c", run("Walk."), Outbound(provider="far", consent=7, redacted=1)))
    await until(lambda: outside.of(CallEnded))
    (sent,), (line,) = outside.of(CallSent), outside.lines
    assert sent.bytes > 100 and line["bytes"] == sent.bytes and len(fake.log) == 1
    wanted = {"provider": "far", "consent": 7, "redacted": 1, "run_id": "r", "attempt": 0, "model": "ok"}
    assert {k: line[k] for k in wanted} == wanted and "Walk" not in repr(line)


@pytest.mark.parametrize("size", [0, INLINE_CHARS], ids=["at once", "in a thread"])
async def test_orders_are_screened(outside: Outside, size: int) -> None:
    outside.edge.perform(Screen("c", run(f"{'la ' * size}Write to {MAIL}."), refuse_pii=False))
    assert outside.fed == []
    await until(lambda: outside.fed)
    (screened,) = outside.of(Screened)
    assert (screened.redacted, screened.blocked) == (1, None)
    assert screened.run.messages[0].content.endswith("Write to [email].")


async def test_what_the_scanner_does_not_take_is_an_error(outside: Outside) -> None:
    many = " ".join(f"reader{n}@lantern{n}.org" for n in range(2_001))
    outside.edge.perform(Screen("c", run(many), refuse_pii=False))
    await until(lambda: outside.fed)
    (screened,) = outside.of(Screened)
    assert (screened.run, screened.blocked) == (None, "gate_error")
    await asyncio.sleep(0)


async def test_what_cannot_be_written_down_does_not_leave(fake: FakeProvider, outside: Outside) -> None:
    failed: list[Exception] = []
    outside.edge.gate_failed = failed.append

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    outside.edge.audit = full
    outside.edge.perform(CallModel("c", run("Walk."), Outbound(provider="far", consent=7)))
    await until(lambda: outside.fed)
    (said,) = outside.fed
    assert isinstance(said, CallFailed) and said.reason == "blocked"
    assert len(fake.log) == 0 and outside.edge.calls == {} and [type(e) for e in failed] == [OSError]


def test_a_record_is_written_when_it_returns_and_says_when_it_is_not() -> None:
    out = io.BytesIO()
    log = Log("runner", "r1", out)
    log.line("other")
    assert out.getvalue() == b""
    log.record("outbound", bytes=7)
    assert b'"outbound"' in out.getvalue() and b'"other"' in out.getvalue()
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError):
        Log("runner", "r1", full).record("outbound", bytes=7)


class Breaks:
    """Scanners that fail as no stage may."""

    def secrets(self, text: str, *_: Any) -> Any:
        raise ValueError(text)

    pii = redact = secrets


@pytest.mark.parametrize("size", [1, INLINE_CHARS], ids=["at once", "in a thread"])
async def test_what_a_scanner_raises_is_told_and_shuts_the_gate(size: int) -> None:
    fed, failed = list[Any](), list[Exception]()
    screener = Screener(Breaks(), lambda: 0.0, fed.append, failed.append)
    screener.screen(Screen("c", run("la " * size), refuse_pii=False))
    await until(lambda: bool(fed))
    assert fed == [Screened(0.0, "c", None, blocked="gate_error")] and [type(e) for e in failed] == [ValueError]
