"""`bench consent`: every case has its control, its counter counts, and a part of the table runs."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from understudy.tools.bench import consent
from understudy.tools.bench.consent import Out, Seen
from understudy.tools.bench.consent_cases import DIALECTS, asks
from understudy.tools.bench.counting import Counter


def test_each_case_differs_from_its_control_in_one_thing() -> None:
    found = asks()
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert len(pairs) > 500 and {one.dialect for one in found} == set(DIALECTS)
    assert {one.form for one in found} == {"stream", "single", "embed"}
    assert {one.path for one in found} == {"first", "fallback", "runner"}
    for case, control in pairs:
        assert case.blocked and not control.blocked
        assert replace(control, blocked=True, number=case.number) == case
        fields = [
            name for name in case.tried.__struct_fields__ if getattr(case.tried, name) != getattr(control.tried, name)
        ]
        assert len(fields) + (case.policy != control.policy) == 1, case.situation.name


async def test_the_counter_counts_what_passes() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Counter(server.sockets[0].getsockname()[1]) as counter:
        assert (counter.connections, counter.bytes) == (0, 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", counter.port)
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        assert (counter.connections, counter.bytes) == (1, 5)


def test_a_leak_and_a_control_that_stayed_are_found() -> None:
    case, control = asks()[:2]
    sound = [
        (case, Seen(said="blocked", connections=0, bytes=0)),
        (control, Seen(said="finished", connections=1, bytes=9)),
    ]
    bars = {one.id: one for one in consent._result(sound, Out()).bars}
    assert all(one.holds for one in bars.values()) and bars["controls_reached"].value == 1
    leaking = [
        (case, Seen(said="finished", connections=1, bytes=7)),
        (control, Seen(said="blocked", connections=0, bytes=0)),
    ]
    told = consent._result(leaking, Out(connections=1, bytes=10))
    broken = {one.id for one in told.bars if not one.holds}
    assert broken == {"bytes_out", "connections_out", "controls_reached", "cases_answered"}
    assert {one.id: one.value for one in told.bars}["bytes_out"] == 10
    stayed = [(case, Seen(said="never_left", connections=0, bytes=0)), sound[1]]  # its user's withdrawal never came
    assert not {one.id: one for one in consent._result(stayed, Out()).bars}["cases_answered"].holds


async def test_what_comes_late_is_counted_all_the_same() -> None:
    """Long after the answer, and after a look that found nothing."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server, Counter(server.sockets[0].getsockname()[1]) as counter:
        assert await consent._all_out({"far": counter}, 0.0) == Out()
        looking = asyncio.create_task(consent._all_out({"far": counter}, 1.0))
        _, writer = await asyncio.open_connection("127.0.0.1", counter.port)
        writer.write(b"words")
        writer.close()
        await writer.wait_closed()
        assert await looking == Out(connections=1, bytes=5)


@pytest.mark.timeout(120)
async def test_a_part_of_it_runs() -> None:
    result = await consent.measure(quick=True)
    assert {one.id: one.value for one in result.bars if one.id.endswith("_out")} == {
        "bytes_out": 0,
        "connections_out": 0,
    }
    assert result.detail["odd"] == []
