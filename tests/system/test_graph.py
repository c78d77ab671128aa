"""The performance graph in the running whole: made of what was asked, questioned and rebuilt from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from understudy.actors.host.graph_check import faults
from understudy.actors.host.graph_side import NO_SERVER, GraphSide
from understudy.bus.client import Client
from understudy.bus.port import BusError
from understudy.messages.topology import ActorPlan, GraphPlan, Topology
from understudy.tools.bench.graph.homes import Embedded, Missing

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


def with_graph(kit: Any, url: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_text(kit.KEY)
    models = {"ok@1": {"provider": "lab"}, "http-500@1": {"provider": "lab", "quality": {"default": 0.9}}}
    return kit.topology_of(
        url, "key", models=models, aliases={}, tasks={"general": {"latency": "quick"}}, graph={"uri": "embedded"}
    )


async def graph_cli(kit: Any, state: Path, *words: str) -> Any:
    code, out, err = await kit.cli("graph", *words, "--state", str(state), "--json")
    assert code == 0, (words, out, err)
    return json.loads(out)


async def until_up_to_date(kit: Any, state: Path, other_than: str = "-") -> dict[str, Any]:
    for _ in range(120):
        code, out, _ = await kit.cli("graph", "--state", str(state), "--json")
        found = json.loads(out) if code == 0 else {}
        if (
            found.get("prefix", "-") != other_than
            and found.get("seq", 0) >= found.get("head", 1)
            and "building" not in found
        ):
            return found
        await asyncio.sleep(0.5)
    raise AssertionError(f"the graph is not up to date: {out}")


async def test_what_was_asked_is_in_the_graph(fake: Any, kit: Any, tmp_path: Path) -> None:
    try:
        Embedded()
    except Missing as why:
        pytest.skip(str(why))
    system = await kit.System(fake, tmp_path, with_graph(kit, fake.url, tmp_path)).start()
    try:
        async with await Client.connect(system.url) as client:
            for _ in range(3):
                await client.generate("Look around.")
        status = await until_up_to_date(kit, tmp_path)
        assert (status["state"], status["prefix"]) == ("projecting", "Pm") and status["seq"] >= 4
        rows = (await graph_cli(kit, tmp_path, "hourly", "--window", "1h"))["rows"]
        counts = {row["model"]: (row["n"], row["ok"]) for row in rows}
        assert counts["ok@1"] == (3, 3) and counts["http-500@1"][1] == 0 < counts["http-500@1"][0]
        (chain,) = (await graph_cli(kit, tmp_path, "chains"))["rows"]
        assert chain["path"] == ["http-500@1", "ok@1"] and chain["ok"] == chain["n"]
        before = await graph_cli(kit, tmp_path, "sum")
        await graph_cli(kit, tmp_path, "rebuild")
        assert (await until_up_to_date(kit, tmp_path, other_than="Pm"))["prefix"] == "Pm2"
        after = await graph_cli(kit, tmp_path, "sum")
        assert (after["checksum"], after["counts"]) == (before["checksum"], before["counts"])
        assert "PmBucket" not in (await graph_cli(kit, tmp_path, "cypher", "hourly"))["cypher"], "it names what serves"
        shell = await graph_cli(kit, tmp_path, "shell-uri")
        _, out, _ = await kit.cli("status", "--state", str(tmp_path), "--json")
        assert json.loads(out)["graph"]["status"]["state"] == "projecting" and shell["password"] not in out
        assert "graph: projecting, " in (await kit.cli("status", "--state", str(tmp_path)))[1]
        others = [file for file in (tmp_path / "graph").rglob("*") if file.stat().st_mode & 0o077]
        assert not others and (tmp_path / "graph").stat().st_mode & 0o777 == 0o700, "this user's alone"
        async with await Client.connect(system.url) as guest:
            with pytest.raises(BusError):
                await guest.bus.request("tta.ask.graph.rebuild", b"{}", timeout_s=1)
        assert shell["uri"].startswith("bolt://127.0.0.1:") and shell["password"]
        code, out, _ = await kit.cli("graph", "worse", "--state", str(tmp_path))
        assert code == 0 and "nothing in this window" in out
        code, _, err = await kit.cli("graph", "worse", "--set", "nothing=1", "--state", str(tmp_path))
        assert code == 2 and "it has: least" in err
        picture = tmp_path / "hourly.png"
        code, out, err = await kit.cli("graph", "hourly", "--plot", str(picture), "--state", str(tmp_path))
        assert code == 0 and picture.read_bytes().startswith(b"\x89PNG"), (out, err)
    finally:
        await system.stop()


async def test_without_the_extra_all_else_works_and_it_says_what_is_missing(
    fake: Any, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util as util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name == "arcadedb_embedded" else found(name, *a))
    system = await kit.System(fake, tmp_path, with_graph(kit, fake.url, tmp_path)).start()
    try:
        async with await Client.connect(system.url) as client:
            assert (await client.generate("Look around.")).model == "ok@1"
        code, out, _ = await kit.cli("graph", "--state", str(tmp_path))
        assert code == 3 and NO_SERVER in out
        code, _, err = await kit.cli("graph", "hourly", "--state", str(tmp_path))
        assert code == 1 and err.startswith("no_graph: ") and NO_SERVER in err
    finally:
        await system.stop()


async def test_off_starts_no_projector(fake: Any, kit: Any, tmp_path: Path) -> None:
    topology = with_graph(kit, fake.url, tmp_path) | {"graph": {"uri": "off"}}
    system = await kit.System(fake, tmp_path, topology).start()
    try:
        assert "projector-1" not in {one.seat.instance for one in system.supervisor.processes}
    finally:
        await system.stop()


@pytest.mark.parametrize(
    ("plan", "path"),
    [
        (GraphPlan(uri="bolt://graph.example.com"), "$.graph.uri"),
        (GraphPlan(uri="http://127.0.0.1"), "$.graph.uri"),
        (GraphPlan(uri="bolt://me:secret@127.0.0.1"), "$.graph.uri"),
        (GraphPlan(uri="bolt://127.0.0.1:x"), "$.graph.uri"),
        (GraphPlan(uri="embedded", password_file="p"), "$.graph.password_file"),
    ],
)
async def test_a_place_that_cannot_be_is_refused_without_showing_it(plan: GraphPlan, path: str) -> None:
    (fault,) = faults(plan)
    assert fault[0] == path and "secret" not in str(fault)


@pytest.mark.parametrize(
    "uri", ["embedded", "off", "bolt://127.0.0.1:7687", "bolt://[::1]:7687", "neo4j+s://far.example.com"]
)
async def test_places_that_can_be(uri: str) -> None:
    assert not list(faults(GraphPlan(uri=uri)))


async def test_a_password_file_that_holds_nothing_is_told(tmp_path: Path) -> None:
    side = GraphSide(tmp_path, tmp_path, lambda *_, **__: None, lambda: None)
    plan = GraphPlan(uri="bolt://127.0.0.1:7687", password_file="nowhere")
    topology = Topology(version=1, models={}, providers={}, graph=plan, actors={"projector": ActorPlan()})
    with pytest.raises(Exception, match=r"graph.password_file: nowhere"):
        side.check(topology)
    (tmp_path / "nowhere").write_text("x")
    side.check(topology)
    await side.apply(topology)
    (tmp_path / "nowhere").unlink()
    moved = structs.replace(topology, graph=structs.replace(plan, database="other"))
    for _ in range(2):  # also the second time: what was refused is not taken for done
        with pytest.raises(Exception, match=r"graph.password_file: nowhere"):
            await side.apply(moved)
    assert side.home.database == "neo4j" and not side.home.missing
