"""An Ollama pulls a model: what is told how often, its end, and every way in which it does not end well."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actors.runner.rawserver import both_loops
from tests.waiting import until
from understudy.actors.runner import core
from understudy.actors.runner import pulls_said as pulls
from understudy.actors.runner.http_edge import HttpEdge
from understudy.actors.runner.pull_edge import PullEdge
from understudy.messages.catalogue import RefreshCatalogue
from understudy.messages.pulls import (
    EndPull,
    PullEnded,
    PullFailed,
    PullOrder,
    PullOver,
    PullProgress,
    PullSaid,
    StartPull,
)
from understudy.messages.step import Asked, Booted, EdgeReady, Effect, Send, Stopping, Unheard, Woke
from understudy.messages.topology import Provider
from understudy.tools.fake.pulls import Pullable, Trouble, digest_of
from understudy.tools.fake.server import FakeProvider

# --- the step ------------------------------------------------------------------------------------------------------

VANISHED = "_INBOX_A.i.vanished.pull-p"


class Desk:
    """A runner that is ready."""

    def __init__(self) -> None:
        self.state, self.settings = core.State(), core.Settings(provider="home")
        self.feed(Booted(0.0, "runner", "i", "tta", "_INBOX_A.i", "id"))
        self.feed(EdgeReady(0.0, {}))

    def feed(self, message: Any) -> list[Effect]:
        return core.step(self.state, message, self.settings)

    def order(self, name: str = "tale", pull_id: str = "p", reply: str = "to", at_ms: float = 0.0) -> list[Effect]:
        return self.feed(Asked(at_ms, pull_id, "ask", reply, PullOrder(name=name)))

    def said(self, at_ms: float, status: str, done: int = 0, digest: str = "d") -> list[PullProgress]:
        out = self.feed(PullSaid(at_ms, "p", status, digest, 100, done))
        return [one.message for one in out if isinstance(one, Send) and isinstance(one.message, PullProgress)]

    def beat(self, at_ms: float) -> list[PullProgress]:
        sent = [one for one in self.feed(Woke(at_ms, core.BEAT, 0)) if isinstance(one, Send) and one.subject == "to"]
        return [one.message for one in sent if isinstance(one.message, PullProgress)]


def failure(out: list[Effect], reply: str = "to") -> str:
    (said,) = (one for one in out if isinstance(one, Send) and isinstance(one.message, PullFailed))
    assert said.subject == reply and isinstance(said.message, PullFailed)
    return said.message.code


def test_an_order_begins_a_pull_and_is_told_so_at_once() -> None:
    assert Desk().order() == [Send("to", PullProgress(), reply=VANISHED), StartPull("p", "tale")]
    assert Desk().order(reply="") == [], "nobody could end it"


def test_bytes_are_told_five_times_a_second_and_every_change_of_status() -> None:
    desk = Desk()
    desk.order()
    told = [desk.said(1_000 + n * 10, "pulling", n) for n in range(100)]
    assert [n for n, one in enumerate(told) if one] == [0, 20, 40, 60, 80]
    assert desk.said(1_991, "verifying") == [PullProgress(status="verifying", digest="d", total_bytes=100)]
    assert desk.said(1_992, "verifying", digest="e"), "another layer"
    assert not desk.said(1_993, "verifying", digest="e")


def test_in_silence_it_is_told_once_a_second_so_that_a_caller_who_left_is_noticed() -> None:
    desk = Desk()
    desk.order(at_ms=0.0)
    told = [bool(desk.beat(at_ms)) for at_ms in (250.0, 500.0, 750.0, 1_000.0, 1_250.0, 2_000.0)]
    assert told == [False, False, False, True, False, True]


def test_its_end_says_what_it_weighs_and_has_the_list_read() -> None:
    desk = Desk()
    desk.order()
    for digest, total in (("small", 5), ("weights", 900), ("small", 5)):
        desk.feed(PullSaid(1.0, "p", "pulling", digest, total))
    refresh = Send("tta.ask.catalogue.refresh", RefreshCatalogue(provider="home"))
    assert desk.feed(PullOver(2.0, "p")) == [Send("to", PullEnded(name="tale", digest="weights", bytes=905)), refresh]
    assert desk.feed(PullOver(2.0, "p")) == [] and not desk.state.pulls


def test_its_failure_has_advice_and_the_server_s_words() -> None:
    desk = Desk()
    desk.order()
    (said,) = desk.feed(PullOver(2.0, "p", "refused", "no space left"))
    assert isinstance(said, Send) and isinstance(said.message, PullFailed)
    assert (said.message.code, said.message.text) == ("refused", f"{pulls.ADVICE['refused']} It says: no space left")


@pytest.mark.parametrize("again", ["tale", "tale:latest", "TALE"])
def test_a_model_is_pulled_once_at_a_time(again: str) -> None:
    desk = Desk()
    desk.order()
    assert failure(desk.order(again, "q", "other"), "other") == "pulling"
    assert len(desk.state.pulls) == 1
    desk.feed(PullOver(2.0, "p"))
    assert StartPull("q", again) in desk.order(again, "q", "other")


def test_so_many_at_once_and_no_more() -> None:
    desk = Desk()
    begun = [desk.order(f"tale:{n}b", f"p{n}", f"to{n}") for n in range(pulls.MOST + 1)]
    assert failure(begun.pop(), f"to{pulls.MOST}") == "pulling"
    assert all(StartPull(f"p{n}", f"tale:{n}b") in out for n, out in enumerate(begun))


def test_who_has_left_for_a_second_has_ended_it() -> None:
    desk = Desk()
    desk.order()
    assert desk.feed(Unheard(5_000.0, VANISHED)) == [], "perhaps the connection alone was lost"
    assert desk.feed(Unheard(5_900.0, VANISHED)) == []
    assert desk.feed(Unheard(6_000.0, VANISHED)) == [EndPull("p")] and not desk.state.pulls
    assert desk.feed(Unheard(7_000.0, VANISHED)) == []


def test_who_was_heard_of_in_between_is_there() -> None:
    desk = Desk()
    desk.order()
    for at_ms in (5_000.0, 9_000.0, 13_000.0):
        assert desk.feed(Unheard(at_ms, VANISHED)) == []


def test_a_process_that_stops_ends_its_pulls_and_says_so() -> None:
    desk = Desk()
    desk.order()
    out = desk.feed(Stopping(1.0))
    assert EndPull("p") in out and failure(out) == "cancelled"
    assert core.in_hand(desk.state) == 0, "a stop does not wait for gigabytes"
    assert failure(desk.order("other", "q", "to2"), "to2") == "cancelled"


# --- the edge ------------------------------------------------------------------------------------------------------


class Edge:
    """The edge of an Ollama, and what it fed."""

    def __init__(self, url: str, key: str | None = None, kind: Any = "ollama") -> None:
        self.edge = HttpEdge(Provider(kind=kind, url=url), {}, key, lambda: 0.0)
        self.fed: list[Any] = []

    async def __aenter__(self) -> Edge:
        await self.edge.start(self.fed.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.edge.stop()

    def pull(self, name: str, insecure: bool = False) -> None:
        self.fed.clear()
        self.edge.perform(StartPull("p", name, insecure))
        assert self.fed == [], "a step is being performed"

    async def over(self, name: str, insecure: bool = False) -> PullOver:
        self.pull(name, insecure)
        await until(lambda: self.overs)
        (one,) = self.overs
        return one

    @property
    def overs(self) -> list[PullOver]:
        return [one for one in self.fed if isinstance(one, PullOver)]

    @property
    def lines(self) -> list[PullSaid]:
        return [one for one in self.fed if isinstance(one, PullSaid)]


@both_loops
async def test_layer_after_layer_then_success() -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        fake.pulls.registry["tale"] = Pullable(layers=[1_000, 10], step=400)
        assert await edge.over("tale", insecure=True) == PullOver(0.0, "p")
        weights, small = digest_of("tale", 0), digest_of("tale", 1)
        assert [(s.digest, s.completed_bytes) for s in edge.lines if s.digest] == [
            (weights, 0), (weights, 400), (weights, 800), (weights, 1_000), (small, 0), (small, 10)
        ]  # fmt: skip
        words = [s.status for s in edge.lines if not s.digest]
        assert words == ["pulling manifest", "verifying sha256 digest", "writing manifest"]
        (seen,) = fake.pulls.log
        assert seen.insecure and [one.name for one in fake.lists.ollama] == ["tale:latest"]


FAULTS: list[tuple[Trouble, str, str]] = [
    ("error", "refused", "write /models/blobs: no space left on device"),
    ("cut", "truncated", ""),
    ("malformed", "malformed", ""),
    ("status", "refused", "HTTP 500 write /models/blobs: no space left on device"),
]


@pytest.mark.parametrize(("fault", "code", "said"), FAULTS)
@both_loops
async def test_every_way_to_end_badly(fault: Trouble, code: Any, said: str) -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        fake.pulls.registry["tale"] = Pullable(fault=fault, after=3)
        assert await edge.over("tale") == PullOver(0.0, "p", code, said)
        assert len(edge.lines) == (0 if fault == "status" else 3) and not fake.lists.ollama


@both_loops
async def test_what_no_registry_has() -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        over = await edge.over("nowhere")
        assert (over.fault, over.said) == ("not_found", "pull model manifest: file does not exist")


@both_loops
async def test_asking_again_goes_on_where_it_stopped() -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        fake.pulls.registry["tale"] = Pullable(layers=[1_000], step=100, fault="cut", after=5)
        assert (await edge.over("tale")).fault == "truncated"
        fake.pulls.registry["tale"].fault = None
        assert (await edge.over("tale")).fault is None
        assert min(one.completed_bytes for one in edge.lines if one.completed_bytes) == 400


@both_loops
async def test_ending_it_closes_the_connection() -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        fake.pulls.registry["tale"] = Pullable(fault="stall", after=2)
        edge.pull("tale")
        await until(lambda: len(edge.lines) == 2)
        edge.edge.perform(EndPull("p"))
        await until(lambda: fake.pulls.log[0].ended == "client_closed")
        assert edge.overs == []


@both_loops
async def test_a_server_that_is_silent_for_long() -> None:
    async with FakeProvider() as fake:
        fake.pulls.registry["tale"] = Pullable(fault="stall", after=2)
        fed = list[Any]()
        edge = PullEdge(Provider(kind="ollama", url=fake.root), dict, lambda: 0.0, fed.append, silent_s=0.1)
        edge.start(StartPull("p", "tale"))
        await until(lambda: fed and isinstance(fed[-1], PullOver))
        assert fed[-1] == PullOver(0.0, "p", "stalled")
        await until(lambda: fake.pulls.log[0].ended == "client_closed")
        await edge.stop()


@both_loops
async def test_nobody_there_and_providers_that_pull_nothing() -> None:
    async with Edge("http://127.0.0.1:9") as edge:
        assert (await edge.over("tale")).fault == "unreachable"
    async with FakeProvider() as fake, Edge(fake.url, kind="openai") as edge:
        assert (await edge.over("tale")).fault == "unsupported" and not fake.pulls.log
    async with FakeProvider() as fake, Edge(fake.root, "key") as edge:
        edge.edge.keys.forget("none")
        over = await edge.over("tale")
        assert over.fault == "refused" and "revoked" in over.said and not fake.pulls.log


async def test_what_a_server_says_is_one_line_and_not_endless() -> None:
    async with FakeProvider() as fake, Edge(fake.root) as edge:
        fake.pulls.registry["tale"] = Pullable(fault="error", words="a\x1b[31m\nb" + "x" * 1_000)
        over = await edge.over("tale")
        assert over.said.startswith("a [31m b") and len(over.said) == 300
