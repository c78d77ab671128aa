"""Providers' lists, end to end: admission, alarms, a server that stops; with the numbers of TTA's scenarios 1 and 4."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.waiting import until
from understudy.tools.bench.scenarios.free_only import FREE, SIX
from understudy.tools.bench.scenarios.retired_model import GONE, NEXT, PRIMARY
from understudy.tools.fake.lists import OllamaModel, Trouble, entry
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[FakeProvider]:
    """OpenRouter, with the list of scenario 1; another one for scenario 4; an Ollama."""
    async with FakeProvider() as provider:
        provider.lists.openrouter = list(SIX)
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        provider.lists.openrouter = [entry(PRIMARY, prompt="0.000001"), entry(NEXT, prompt="0.000001")]
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        text = "MIT License\n\nCopyright (c) 2024 Some Body\n\nPermission is hereby granted, free of charge, to any"
        tiny = OllamaModel(name="tiny:latest", context_length=2_048, license=text, loaded=(90, 40))
        cloud = OllamaModel(name="giant:671b-cloud"), OllamaModel(name="sent-away", remote_host="https://example.test")
        provider.lists.ollama = [tiny, *cloud]
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(router: Any, hub: Any, home: Any, kit: Any, tmp_path_factory: Any) -> AsyncIterator[Any]:
    def listed(kind: str, url: str, **catalogue: Any) -> dict[str, Any]:
        return {"kind": kind, "url": url, "catalogue": {"refresh_s": 1, **catalogue}}

    free = {"ids": ["lab/*:free", "lab/zero", "lab/per-request"], "free": True, "quality": {"default": 0.2}}
    everything = {"ids": ["*"], "locations": ["local", "external"], "quality": {"default": 0.1}}
    topology = kit.topology_of(
        router.url,
        "key",
        providers={
            "router": listed("openrouter", f"{router.root}/api/v1", admit=free),
            "hub": listed("openrouter", f"{hub.root}/api/v1"),
            "home": listed("ollama", home.root, prefix="home/", admit=everything),
        },
        models={
            PRIMARY: {"provider": "hub", "quality": {"default": 0.9}, "fallbacks": [NEXT]},
            NEXT: {"provider": "hub", "quality": {"default": 0.8}},
        },
        aliases={},
        tasks={"general": {"latency": "patient", "max_tokens": 4_000}},
    )
    running = await kit.System(router, tmp_path_factory.mktemp("catalogue"), topology).start()
    try:
        yield running
    finally:
        await running.stop()


Filters = dict[str, Any]


async def listed(talk: Any, **filters: Any) -> dict[str, Any]:
    return await talk.raw(json.dumps(filters).encode(), "tta.ask.model.list")


async def cards(talk: Any, **filters: Any) -> dict[str, dict[str, Any]]:
    return {card["id"]: card for card in (await listed(talk, **filters))["models"]}


async def until_all_say(talk: Any, good: Callable[[dict[str, Any]], bool], **filters: Any) -> None:
    """Both selectors know: twelve answers in a row say so."""
    in_a_row, found = 0, dict[str, Any]()
    for _ in range(300):
        found = await listed(talk, **filters)
        in_a_row = in_a_row + 1 if good(found) else 0
        if in_a_row == 12:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(found)


def has(*ids: str) -> Callable[[dict[str, Any]], bool]:
    return lambda found: sorted(ids) == sorted(card["id"] for card in found["models"])


async def events_of(system: Any, *words: str) -> list[dict[str, Any]]:
    return [e for e in await system.events() if e["type"].removesuffix(".v1") in words]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def ready(system: Any, nc: Any, kit: Any) -> None:
    await until_all_say(kit.Talk(nc), lambda found: found["total"] == 11)


async def test_scenario_1_free_only(talk: Any, system: Any, router: Any) -> None:
    """A list of six: two `:free`, one free but for a request price, one with zero prices, one paid, one router."""
    assert sorted(await cards(talk, free=True, provider="router")) == sorted(FREE)
    all_six = await cards(talk, provider="router")
    assert len(all_six) == 6
    assert all_six["lab/paid"]["price"]["units"] == {"completion": "0.00001", "prompt": "0.0000025"}, "never divided"
    assert all_six["lab/paid"]["usd_per_mtok"] == 10.0
    assert "price" not in all_six["lab/router"] and "usd_per_mtok" not in all_six["lab/router"], "unknown, so not free"
    assert sorted(m for m, card in all_six.items() if card.get("candidate", True)) == sorted(FREE)
    used = set[str]()
    for n in range(4):
        end = await talk.whole(f"Free {n}.", requirements={"free": True})
        assert end["type"] == "model.finished.v1" and end["model"] in FREE
        assert end["attempts"][0]["upstream"] == "FakeProvider", "who really served behind the router"
        used.add(end["model"])
    assert {seen.request.model for seen in router.log} == used


async def test_a_paid_model_is_never_within_free(talk: Any) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], "requirements": {"free": True}, "explain": True}
    chosen = await talk.raw(json.dumps(asked).encode(), "tta.ask.model.select")
    assert {one["model"] for one in chosen["chain"]} == {*FREE, TINY}
    assert chosen["rejected_models"] == {"not_free": sorted([PRIMARY, NEXT]), "wrong_location": CLOUD}


TINY = "home/tiny:latest"
CLOUD = ["home/giant:671b-cloud", "home/sent-away"]


async def test_scenario_4_a_retired_model(talk: Any, system: Any, hub: Any) -> None:
    """404 at the primary: the next one answers; nobody tries it again, in any process, until a list has it again."""
    hub.lists.faults["openrouter"] = Trouble(status=500)  # no list: only the answer tells
    await until_all_say(talk, lambda found: "hub" in found.get("problems", {}))
    hub.faults[PRIMARY] = GONE
    ends = await asyncio.gather(*(talk.whole(f"Gone {n}.", deadline_ms=35_000) for n in range(8)))
    assert {(end["type"], end["model"]) for end in ends} == {("model.finished.v1", NEXT)}
    assert ends[0]["attempts"][0] | {"total_ms": 0} == {
        "model": PRIMARY, "outcome": "model_not_found", "status": 404, "total_ms": 0, "location": "local"
    }  # fmt: skip
    retired = {"provider": "hub"}
    await until_all_say(talk, lambda found: _card(found, PRIMARY).get("retired") == "not_found", **retired)
    before = len(_asked(hub, PRIMARY))
    assert before <= 8
    instances = Counter[str]()
    for n in range(40):
        async with talk.stream(f"Later {n}.") as reading:
            end = await reading.end()
            assert [a["model"] for a in end["attempts"]] == [NEXT]
            instances[reading.of("started")[0]["instance"]] += 1
    assert set(instances) == {"selector-1", "selector-2"}, "both were asked"
    assert len(_asked(hub, PRIMARY)) == before, "and neither tried it"
    (announced,) = await events_of(system, "model.retired")
    assert (announced["models"], announced["reason"]) == ([PRIMARY], "not_found"), "once, though several saw it"
    del hub.faults[PRIMARY], hub.lists.faults["openrouter"]  # the list has it still
    await until_all_say(talk, lambda found: "retired" not in _card(found, PRIMARY), **retired)
    assert (await talk.whole("Back.", model=PRIMARY))["model"] == PRIMARY
    assert [e["models"] for e in await events_of(system, "model.returned")] == [[PRIMARY]]


def _card(found: dict[str, Any], model: str) -> dict[str, Any]:
    return next((card for card in found["models"] if card["id"] == model), {})


def _asked(provider: Any, model: str) -> list[Any]:
    return [seen for seen in provider.log if seen.model == model]


async def test_no_endpoints_is_about_the_request_alone(talk: Any, system: Any, hub: Any) -> None:
    for n, code in enumerate(("no_endpoints", "privacy_restricted")):
        body = {"error": {"code": 404, "message": "x", "availability": {"code": code}}}
        hub.faults[PRIMARY] = Fault(status=404, body=body, fail_first=1)
        hub._counts.clear()
        end = await talk.whole(f"Nobody {n}.", model=PRIMARY)
        assert end["attempts"][0]["outcome"] == "no_endpoints"
    del hub.faults[PRIMARY]
    await until_all_say(talk, lambda found: "retired" not in _card(found, PRIMARY), provider="hub")
    assert len(await events_of(system, "model.retired")) == 1, "the one of scenario 4"


async def test_what_is_listed_later_is_selected_and_run_without_a_restart(talk: Any, system: Any, router: Any) -> None:
    pids = {p.seat.instance: p.pid for p in system.supervisor.processes}
    router.lists.openrouter.append(entry("lab/new:free"))
    await until_all_say(talk, has(*FREE, "lab/new:free"), provider="router", candidates=True)
    end = await talk.whole("New.", model="lab/new:free")
    assert (end["type"], end["model"]) == ("model.finished.v1", "lab/new:free")
    router.lists.openrouter = [*SIX]
    await until_all_say(talk, has(*FREE), provider="router", candidates=True)
    end = await talk.whole("Old.", model="lab/new:free")
    assert (end["code"], end["rejected"]["retired"]) == ("no_allowed_model", 1)
    assert {p.seat.instance: p.pid for p in system.supervisor.processes} == pids


async def test_a_list_that_is_not_whole_is_refused_whole_with_one_alarm(talk: Any, system: Any, router: Any) -> None:
    before = await listed(talk, provider="router")
    bad = entry("lab/odd:free")
    bad["pricing"]["image"] = 0.5
    router.lists.openrouter = [*SIX[:3], entry("lab/more:free"), bad]
    await until_all_say(talk, lambda found: "router" in found.get("problems", {}))
    problem = (await listed(talk))["problems"]["router"]
    assert (problem["code"], problem["path"]) == ("malformed", "$.data[4].pricing.image")
    asked = router.lists_asked["/api/v1/models"]
    await until(lambda: router.lists_asked["/api/v1/models"] > asked + 1, 10)
    after = await listed(talk, provider="router")
    assert after["models"] == before["models"], "what was known stands"
    assert len([e for e in await events_of(system, "catalogue.refused") if e["provider"] == "router"]) == 1
    lines = [x for x in system.log_lines() if x["event"] == "catalogue.refused" and x["provider"] == "router"]
    assert [(x["code"], x["path"]) for x in lines] == [("malformed", "$.data[4].pricing.image")]
    code, out, _ = await system.cli("models")
    assert code == 0 and "PROBLEM: the list of router is not used (malformed at $.data[4].pricing.image)" in out
    router.lists.openrouter = [*SIX]
    await until_all_say(talk, lambda found: "router" not in found.get("problems", {}))


async def test_what_an_ollama_has(talk: Any, home: Any) -> None:
    """Its words, not the names: length and capabilities from show; what runs in the cloud is not local."""
    local = await cards(talk, location="local", provider="home")
    assert list(local) == [TINY] and sorted(await cards(talk, location="external")) == CLOUD
    tiny = local[TINY]
    assert (tiny["context_tokens"], tiny["capabilities"], tiny["licence_class"]) == (2_048, ["chat"], "permissive")
    assert tiny["free"] and not any(card.get("free") for m, card in (await cards(talk)).items() if m in CLOUD)
    about = await talk.raw(json.dumps({"model": TINY}).encode(), "tta.ask.model.describe")
    assert about["resident"] == {"bytes": 90, "vram_bytes": 40, "context_tokens": 2_048}
    assert about["listing"]["name"] == "tiny:latest"
    end = await talk.whole("Home.", model=TINY)
    assert (end["type"], end["model"]) == ("model.finished.v1", TINY)
    assert _asked(home, "tiny:latest")


async def test_a_model_whose_details_fail_takes_no_other_along(talk: Any, system: Any, home: Any) -> None:
    """It says why, and is no longer local: these are other weights, and nothing has shown where they compute."""
    tiny, before = home.lists.ollama[0], await cards(talk, provider="home")
    tiny.digest, tiny.show_status = "sha256:1", 500
    problem = "the details were answered with HTTP 500"
    await until_all_say(talk, lambda f: [c["id"] for c in f["models"] if c.get("problem") == problem] == [TINY],
                        provider="home")  # fmt: skip
    after = await cards(talk, provider="home")
    assert after.pop(TINY)["location"] == "external" and before.pop(TINY)["location"] == "local"
    assert after == before and "problems" not in await listed(talk)
    code, out, _ = await system.cli("models")
    assert code == 0 and f"PROBLEM: {TINY} is as it was known before: {problem}" in out
    lines = [line.get("problems") for line in system.log_lines() if line["event"] == "model.registered"]
    assert {TINY: problem} in lines
    tiny.show_status = 200
    await until_all_say(talk, lambda f: not any(c.get("problem") for c in f["models"]), provider="home")
    assert (await cards(talk, provider="home"))[TINY]["location"] == "local"


async def test_a_server_that_stops_is_one_announcement(talk: Any, system: Any, home: Any) -> None:
    await home.__aexit__()
    three = ["home/giant:671b-cloud", "home/sent-away", TINY]
    await until_all_say(talk, lambda f: all(card.get("offline") for card in f["models"]), provider="home")
    (gone,) = await events_of(system, "model.offline")
    assert (sorted(gone["models"]), gone["reason"]) == (three, "unreachable")
    end = await talk.whole("Home.", model=TINY)
    assert (end["code"], end["rejected"]["offline"]) == ("no_allowed_model", 1)
    await home.__aenter__()
    await until_all_say(talk, lambda f: not any(card.get("offline") for card in f["models"]), provider="home")
    assert [sorted(e["models"]) for e in await events_of(system, "model.online")] == [three]


async def test_the_manager_killed_says_nothing_twice(talk: Any, system: Any, router: Any, hub: Any) -> None:
    before = await events_of(system, "model.registered", "model.priced", "model.resident")
    await system.back("model_manager-1", await system.kill("model_manager-1"))
    path, asked = "/api/v1/models", [one.lists_asked["/api/v1/models"] for one in (hub, router)]
    await until(lambda: all(one.lists_asked[path] > n + 1 for one, n in zip((hub, router), asked, strict=True)), 15)
    assert await events_of(system, "model.registered", "model.priced", "model.resident") == before


async def test_filters_on_the_command_line(system: Any) -> None:
    code, out, _ = await system.cli("models", "--free", "--provider", "router", "--json")
    assert code == 0 and sorted(card["id"] for card in json.loads(out)["models"]) == sorted(FREE)
    code, out, _ = await system.cli("models", "--all", "--max-usd-per-mtok", "2", "--context", "100000")
    assert (
        code == 0 and "lab/zero" in out and not any(f"lab/{dear}" in out for dear in ("per-request", "paid", "router"))
    )
    code, out, _ = await system.cli("models", "--model", "lab/paid")
    assert code == 0 and "0.0000025" in out


async def test_every_decision_repeats_from_the_log(system: Any) -> None:
    code, out, _ = await system.cli("replay", "--json")
    report = json.loads(out)
    assert (code, report["differ"]) == (0, []) and report["compared"] > 40
