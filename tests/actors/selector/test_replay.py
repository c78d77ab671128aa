"""Replay over an exported log: an unharmed one repeats, and no byte of a decision can change unseen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector.replay import Record, Report, replay
from understudy.bus.port import Received
from understudy.messages.events import TopologyApplied
from understudy.messages.run import ModelLoad, RunnerBeat
from understudy.messages.wire import encode, tag_of
from understudy.tools.rawlog import export, exported

OTHERS = (lambda b: b ^ 1, lambda b: b ^ 0x20, lambda b: b ^ 0x80, lambda _: 0x20, lambda _: 0x22, lambda _: 0x30)
"""Other bytes to put in a byte's place: neighbours, other case, no UTF-8, and what JSON itself is made of."""
PUNCTUATION = b"\n,}]"


@pytest.fixture
def log(stage: Any) -> bytes:
    """Two runs, one with a failover, as `understudy events --json` writes them."""
    s = stage({"a": {}, "b": {"slots": 1}, "c": {"context_tokens": 3}, "d": {}}, beats=False)
    for model in "abc":
        s.hear(RunnerBeat(instance=f"i-{model}", models={model: ModelLoad(slots=1, in_flight=0)}))
    events: list[Any] = [TopologyApplied(at_ms=0, hash="h1", body=s.topology)]
    for run in ("r1", "r2"):
        s.ask(run, balance=0.25)
        s.text("One", run=run)
        s.failed("server_error", run)
        s.text(" two", run=run)
        s.ended(run=run)
        for store in s.stores()[len(events) - 1 :]:
            events.append(store.event)
            s.happen(store.event)
    return b"\n".join(line(seq, event) for seq, event in enumerate(events, 1))


def line(seq: int, event: Any) -> bytes:
    name = tag_of(type(event)).rsplit(".", 1)[0]
    return export(Received(f"tta.evt.{name}", encode(event), seq=seq))


def check(data: bytes) -> Report:
    return replay(exported(data))


def test_an_unharmed_export_repeats(log: bytes) -> None:
    report = check(log)
    assert (report.compared, report.differ, report.skipped) == (2, (), 0)


def test_a_log_whose_beginning_is_gone_says_so(log: bytes) -> None:
    assert check(log).cut == 0
    assert check(log.split(b"\n", 2)[2]).cut == 2


def test_every_changed_byte_of_a_decision_is_found(log: bytes) -> None:
    at = log.rindex(b'"decision":') + len(b'"decision":')
    decision = bytes(msgspec.json.decode(log.split(b"\n")[-1], type=_Line).payload.decision)
    assert log[at : at + len(decision)] == decision and len(decision) > 500
    for i in range(at, at + len(decision)):
        values = {other(log[i]) & 0xFF for other in OTHERS} | set(PUNCTUATION)
        for value in values - {log[i]}:
            harmed = log[:i] + bytes([value]) + log[i + 1 :]
            assert check(harmed).differ, f"byte {i - at} of the decision: {log[i]:#x} -> {value:#x}"


class _Ended(msgspec.Struct):
    decision: msgspec.Raw


class _Line(msgspec.Struct):
    payload: _Ended


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"seal":"', b'"seal":"0', "seal"),
        (b'"seal":', b'"sael":', "seal"),
        (b'"decision":', b'"decisiom":', "seal"),
        (b'"topology":"h1","digest"', b'"topology":"h2","digest"', "topology"),
        (b"request.ended.v1", b"request.ended.v7", "payload"),
        (b'"seq"', b'"sep"', "payload"),
    ],
)
def test_what_stands_beside_a_decision_is_compared_too(log: bytes, old: bytes, new: bytes, field: str) -> None:
    lines = log.split(b"\n")
    assert old in lines[-1]
    lines[-1] = lines[-1].replace(old, new, 1)
    assert field in {one.field for one in check(b"\n".join(lines)).differ}


def test_an_event_of_a_newer_kind_disturbs_nobody(log: bytes) -> None:
    newer = b'{"seq":99,"subject":"tta.evt.model.sang","payload":{"type":"model.sang.v1","at_ms":1}}'
    report = check(log + b"\n" + newer)
    assert (report.compared, report.differ, report.skipped) == (2, (), 1)


def test_what_is_no_json_travels_too() -> None:
    (record,) = exported(export(Received("tta.evt.odd.thing", b"\xff\x00\n", seq=3)))
    assert record == Record(3, "tta.evt.odd.thing", b"\xff\x00\n")


def test_what_is_no_event_is_counted_and_decides_nothing() -> None:
    """In the log itself and in an exported one."""
    foreign = export(Received("tta.evt.request.ended", b"", seq=3, foreign=True))
    (record,) = exported(foreign)
    assert record == Record(3, "tta.evt.request.ended", b"", True)
    report = replay([record])
    assert (report.foreign, report.skipped, report.differ) == (1, 0, ())
