"""`bench trends`: its judgement finds what is wrong, its reader counts a real log's bytes and no fault escapes it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from understudy.actors.benchmarker import core
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import CompareModels, Trends
from understudy.messages.events import RequestEnded
from understudy.messages.step import Asked, Happened
from understudy.messages.wire import decode, encode, reader_of
from understudy.tools.bench import trends as bench
from understudy.tools.bench import trends_reader as reader
from understudy.tools.bench.trends_detect import Announced, judge, summary
from understudy.tools.bench.trends_world import HOURS, LEAST_CALLS, MODELS, QUIET_H, World

FIRST_H = 490_008


def test_a_month_is_drawn_from_its_seed_with_calls_enough_and_regressions_apart() -> None:
    one, same, other = World(1), World(1), World(2)
    assert one.planted == same.planted != other.planted and len(one.planted) == 2 * len(MODELS)
    assert all(QUIET_H <= planted.hour < planted.end < HOURS for planted in one.planted)
    hours = list(islice(one.calls(), 30))
    assert hours == list(islice(same.calls(), 30))
    counts = [sum(call.model == model for call in calls) for calls in hours for model in MODELS]
    assert min(counts) >= LEAST_CALLS


def test_what_is_found_in_time_late_never_and_falsely() -> None:
    world = World(1)
    first, second, third, *_ = world.planted
    told = [
        Announced(first.model, first.figure, "worse", first.hour + 2),
        Announced(first.model, first.figure, "recovered", first.end + 1),
        Announced(second.model, second.figure, "worse", second.hour + 3),
        Announced(third.model, third.figure, "worse", third.end + 5),
        Announced(third.model, "score", "worse", third.hour + 1),
    ]
    found = judge(world, told, 0)
    assert found.found_h[:3] == [2, 3, None] and found.found() == 1
    assert found.recovered_h[0] == 1 and found.false_recoveries == 0
    assert found.false_alarms == [(third.model, third.figure, third.end + 5), (third.model, "score", third.hour + 1)]
    assert summary([found])["false_alarms_per_model_month"] == 2 / len(MODELS)
    early = Announced(first.model, first.figure, "recovered", first.end)
    assert judge(world, [early], 0).false_recoveries == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """Five days of the month in a real nats-server's files; and the payloads that went in."""
    state, payloads = tmp_path_factory.mktemp("log"), list[bytes]()

    def events() -> Any:
        number = 0
        for calls in islice(World(1).calls(), 5 * 24):
            for call in calls[:60]:
                number += 1
                payloads.append((out := bench._outgoing(call, FIRST_H, number)).payload)
                yield out

    topology = bench._topology()
    assert await bench._fill(state, topology, events()) == len(payloads)
    return bench._stream(state, topology), payloads


@pytest.fixture(scope="module")
def shown(logged: tuple[Path, list[bytes]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the benchmarker shows of it, as JSON."""
    state, read = core.State(), reader_of(core.FOLDS)
    for seq, payload in enumerate(logged[1], 1):
        core.step(state, Happened(0.0, seq, read(payload)), core.Settings())  # type: ignore[arg-type]
    now = (FIRST_H + 5 * 24) * HOUR_MS - 1
    asks = (CompareModels(window_ms=40 * 24 * HOUR_MS), Trends(window_ms=40 * 24 * HOUR_MS))
    sent = [core.step(state, Asked(now, "i", "s", "reply", ask), core.Settings())[0] for ask in asks]
    first, second = (msgspec.json.decode(encode(one.message)) for one in sent)  # type: ignore[union-attr]
    return first, second


@pytest.mark.asyncio(loop_scope="module")
async def test_the_reader_takes_every_payload_out_of_the_blocks(logged: tuple[Path, list[bytes]]) -> None:
    folder, payloads = logged
    assert [payload for _, payload in reader.messages(folder)] == payloads
    assert isinstance(decode(payloads[0]), RequestEnded)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_shown_is_what_the_bytes_say(logged: tuple[Path, list[bytes]], shown: Any) -> None:
    counted = reader.Counted(logged[0])
    assert reader.differences_of_comparison(counted, shown[0]) == []
    assert reader.differences_of_trends(counted, shown[1]) == []


@pytest.mark.parametrize(
    "path", ["error_ratio.value", "error_ratio.low", "latency_ms.value", "latency_ms.high", "p95_ms.value", "attempts",
             "errors.server", "first_token_ms"]
)  # fmt: skip
@pytest.mark.asyncio(loop_scope="module")
async def test_a_figure_that_is_wrong_is_found(logged: tuple[Path, list[bytes]], shown: Any, path: str) -> None:
    forged = msgspec.json.decode(msgspec.json.encode(shown[0]))
    at = forged["models"][2]
    *inner, last = path.split(".")
    for name in inner:
        at = at[name]
    at[last] = at[last] * 2 + 1 if last in ("attempts", "server") else at[last] * 1.6
    assert reader.differences_of_comparison(reader.Counted(logged[0]), forged)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_significance_that_is_not_is_found(logged: tuple[Path, list[bytes]], shown: Any) -> None:
    forged = msgspec.json.decode(msgspec.json.encode(shown[0]))
    for pair in forged["pairs"]:
        pair["significant"] = not pair.get("significant", False)
    assert reader.differences_of_comparison(reader.Counted(logged[0]), forged)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_fold_that_drops_an_hour_is_found(logged: tuple[Path, list[bytes]], shown: Any) -> None:
    counted = reader.Counted(logged[0])
    hours = counted.hours[MODELS[1]]
    del hours[sorted(hours)[50]]
    assert reader.differences_of_comparison(counted, shown[0]) and reader.differences_of_trends(counted, shown[1])


def good() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    answers = {"differences": [], "differences_without_an_hour": 3, "heard": {"latency_ms": "worse"}}
    quiet = {"false_alarms_per_model_month": 0.0, "planted": 0}
    controls = {"shuffled": {"found_ratio": 0.1}, "deaf": {"found": 0}, "quiet": quiet}
    return answers, controls, {"planted": 16, "false_recoveries": 0}


def test_a_bench_that_cannot_fail_prints_no_figures() -> None:
    bench._trust(*good())
    for part, name, value in (
        (0, "differences", ["x"]), (0, "differences_without_an_hour", 0), (0, "heard", {}),
        (1, "shuffled", {"found_ratio": 0.9}), (1, "deaf", {"found": 3}),
        (1, "quiet", {"false_alarms_per_model_month": 2.0, "planted": 0}), (2, "planted", 0),
    ):  # fmt: skip
        forged = good()
        forged[part][name] = value
        with pytest.raises(RuntimeError):
            bench._trust(*forged)
