"""An engine whose thread died or is stuck is noticed, and its process ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.actors.runner.local.engines import LEAD, ask
from tests.waiting import until
from understudy.actors.runner.local_edge import LocalEdge
from understudy.actors.runner.watchdog import Watchdog
from understudy.messages.step import CallEnded, Input
from understudy.messages.topology import Model

DEVICE_ERROR = "CUDA error: device-side assert triggered"


def broken(*_: object) -> Any:
    raise RuntimeError(DEVICE_ERROR)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a step of the engine until the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_an_error_of_the_device_ended_is_noticed() -> None:
    told, fed = list[tuple[str, str]](), list[Input]()
    edge = LocalEdge("m", Model(provider="here"), LEAD, lambda: 0.0, lambda *why: told.append(why))
    await edge.start(fed.append)
    engine = edge._engine
    assert engine is not None and engine._loop is not None
    assert engine.submit(ask("whole", max_tokens=2))
    await until(lambda: any(isinstance(one, CallEnded) for one in fed))
    assert told == []
    engine._loop.step = engine._loop.reset = broken  # type: ignore[method-assign]
    assert engine.submit(ask("c"))
    await until(lambda: told)
    assert told == [("m", "thread_ended")] and not engine.is_alive()
    await edge.stop()


async def test_a_step_that_does_not_end_is_noticed_once(run: Callable[..., Any], gate: threading.Event) -> None:
    told, engine = list[str](), run(LEAD).engine
    Watchdog(engine, told.append, look_s=0.02, stuck_s=0.2)
    engine._loop.step = lambda now: [gate.wait()][1:]
    assert engine.submit(ask("c"))
    await until(lambda: told)
    await asyncio.sleep(0)
    assert told == ["stuck"] and engine.is_alive()


async def test_an_engine_at_work_is_left_alone(run: Callable[..., Any]) -> None:
    told, engine = list[str](), run(LEAD, tokens_per_s=10.0).engine
    watchdog = Watchdog(engine, told.append, look_s=0.2, stuck_s=2.0)
    assert engine.submit(ask("c", max_tokens=25))
    await until(lambda: not engine._open)
    assert told == []
    watchdog.stop()


def test_by_itself_it_ends_the_process_and_says_why() -> None:
    code = "from understudy.actors.runner.local_edge import _end_process; _end_process('m', 'stuck')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 70
    assert ended.stderr.splitlines()[-1] == b'{"actor":"runner","event":"engine_dead","model":"m","why":"stuck"}'
