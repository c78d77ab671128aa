"""A list over a socket: what one model's details do not bring, and what is the server's fault."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from tests.actors.runner.rawserver import Peer, Server, both_loops, sized
from tests.waiting import until
from understudy.actors.runner import list_edge
from understudy.actors.runner.list_edge import ListEdge
from understudy.messages.step import Fetched, FetchFailed
from understudy.messages.topology import CataloguePlan, Provider

SHOWN = sized(b'{"capabilities": ["completion"]}')


async def listed(shows: dict[str, str]) -> Fetched | FetchFailed:
    """What comes of an Ollama with these models, by what its answer to a look at their details is."""

    async def script(peer: Peer) -> None:
        while True:
            try:
                head = await peer.reader.readuntil(b"\r\n\r\n")
            except EOFError:
                return
            size = re.search(rb"Content-Length: (\d+)", head)
            body = await peer.reader.readexactly(int(size[1])) if size else b""
            if b"/api/show" not in head:
                await peer.send(sized(msgspec.json.encode({"models": [{"name": name} for name in shows]})))
                continue
            match shows[msgspec.json.decode(body)["model"]]:
                case "ok":
                    await peer.send(SHOWN)
                case "huge":
                    await peer.send(sized(b" " * 5_000))
                case "hangs":
                    await peer.left()
                case "dies":
                    server.close()
                    return
                case _:
                    return

    fed: list[Any] = []
    async with Server(script) as server:
        provider = Provider(kind="ollama", url=server.url.removesuffix("/v1"), catalogue=CataloguePlan())
        edge = ListEdge(provider, CataloguePlan(), dict, lambda: 0.0, fed.append)
        edge.fetch("l")
        await until(lambda: bool(fed), within_s=10)
        await edge.stop()
    return fed[0]


@pytest.mark.parametrize(
    ("show", "problem"),
    [("breaks", "the connection broke"), ("huge", "more than 4000 bytes"), ("hangs", "no whole answer within")],
)
@both_loops
async def test_a_model_whose_details_never_come_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch, show: str, problem: str
) -> None:
    monkeypatch.setattr(list_edge, "ANSWER_BYTES", 4_000)
    monkeypatch.setattr(list_edge, "ANSWER_S", 1.0 if show == "hangs" else 15.0)
    found = await listed({"a": "ok", "b": show, "c": "ok"})
    assert isinstance(found, Fetched), found
    assert [one.name for one in found.rows if not one.problem] == ["a", "c"]
    (b,) = (one for one in found.rows if one.problem)
    assert b.name == "b" and f"the details did not come: {problem}" in b.problem


@both_loops
async def test_a_server_that_hangs_is_not_waited_for_model_by_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_edge, "ANSWER_S", 1.0)
    found = await listed({name: "ok" if name in "abcdef" else "hangs" for name in "abcghdef"})
    assert isinstance(found, FetchFailed) and (found.code, found.path) == ("timeout", "$.models[4]")


@both_loops
async def test_a_server_that_is_gone_in_the_middle_has_no_list() -> None:
    found = await listed({"a": "ok", "b": "dies", "c": "ok", "d": "ok"})
    assert isinstance(found, FetchFailed) and found.code == "unreachable"
