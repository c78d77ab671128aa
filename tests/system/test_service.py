"""The service as nats-py and json alone see it: ask, stream, cancel, list, feed back, many at once."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.system.expected import tried
from tests.waiting import found, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


# --- nats-py and json, nothing of ours -------------------------------------------------------------------------------


async def test_a_single_reply_with_nats_py_and_json_alone(system: Any, kit: Any) -> None:
    nc = await nats.connect(system.url)
    body = {"messages": [{"role": "user", "content": "One reply, please."}], "model": "narrator"}
    reply = await nc.request("tta.ask.model.generate", json.dumps(body).encode(), timeout=10)
    await nc.close()
    answer = json.loads(reply.data)
    assert (answer["type"], answer["text"]) == ("model.finished.v1", kit.script("One reply, please."))
    assert (answer["model"], answer["finish_reason"]) == ("ok@1", "stop")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 48}


async def test_a_stream_with_nats_py_and_json_alone(system: Any, kit: Any) -> None:
    nc = await nats.connect(system.url)
    inbox = nc.new_inbox()
    sub = await nc.subscribe(inbox)
    body = {"messages": [{"role": "user", "content": "A stream, please."}], "model": "drip@1", "stream": True}
    await nc.publish("tta.ask.model.generate", json.dumps(body).encode(), reply=inbox)
    seen: list[Any] = []
    while not seen or seen[-1]["type"] not in ("model.finished.v1", "model.failed.v1"):
        seen.append(json.loads((await sub.next_msg(timeout=10)).data))
    await nc.close()
    kinds = [one["type"].split(".")[1] for one in seen]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert len(kinds) > 10
    text = "".join(one["text"] for one in seen if one["type"] == "model.delta.v1")
    assert text == seen[-1]["text"] == kit.script("A stream, please.")
    assert [one["seq"] for one in seen[1:-1]] == list(range(len(seen) - 2))


async def test_the_outcome_is_in_the_log_when_the_caller_hears_it(system: Any, talk: Any) -> None:
    end = await talk.whole("Recorded?", model="ok@1", labels=["scene-3"])
    (outcome,) = await system.outcomes(end["run_id"])
    assert (outcome["outcome"], outcome["model"], outcome["labels"]) == ("finished", "ok@1", ["scene-3"])
    assert outcome["text_chars"] == len(end["text"])


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has open is read from /proc")
async def test_whoever_stores_has_the_logs_file_open_to_sync_it(system: Any, talk: Any) -> None:
    await talk.whole("Recorded?", model="ok@1")
    (folder,) = (system.state / "nats/jetstream").glob("jetstream/*/streams/TTA_EVT/msgs")
    newest = str(max(folder.glob("*.blk"), key=lambda path: int(path.stem)))
    for process in system.supervisor.processes:
        opened = {str(Path(link).resolve()) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert newest in opened, process.seat.instance
    assert "sync_interval: 1s" in (system.state / "nats/nats.conf").read_text()


async def test_what_the_disk_may_not_have_is_not_called_recorded(system: Any, talk: Any) -> None:
    """The newest file loses its name for a moment: nobody can sync it, though the server writes on."""
    (folder,) = (system.state / "nats/jetstream").glob("jetstream/*/streams/TTA_EVT/msgs")
    newest = max(folder.glob("*.blk"), key=lambda path: int(path.stem))
    kept = system.state / "kept.blk"
    kept.hardlink_to(newest)
    newest.unlink()
    try:
        end = await talk.whole("Synced?", model="ok@1")
    finally:
        newest.hardlink_to(kept)
        kept.unlink()
    assert (end["type"], end["recorded"]) == ("model.finished.v1", False)
    await until(lambda: any(line["event"] == "not_synced" for line in system.log_lines()))
    assert "recorded" not in await talk.whole("Synced again?", model="ok@1"), "true is what is not said"
    assert len(await system.outcomes(end["run_id"])) == 1


# --- cancelling ------------------------------------------------------------------------------------------------------


async def test_cancel_by_subject_closes_the_upstream_call(system: Any, talk: Any, kit: Any) -> None:
    before = system.fake.connections_closed
    async with talk.stream("Cancel me.", model="crawl@1") as reading:
        await reading.until_delta(3)
        started = reading.of("started")[0]
        order = json.dumps({"run_id": started["run_id"]}).encode()
        said = await talk.raw(order, f"tta.ask.model.cancel.{started['instance']}")
        assert said == {"type": "model.cancelled.v1", "run_id": started["run_id"], "known": True}
        end = await reading.end()
    assert (end["code"], tried(end)) == ("cancelled", [("crawl@1", "cancelled")])
    await kit.until(lambda: system.fake.connections_closed == before + 1)
    (seen,) = system.upstream("Cancel me.")
    assert (seen.ended, seen.tokens_sent < 1000) == ("client_closed", True)
    (outcome,) = await system.outcomes(started["run_id"])
    assert outcome["outcome"] == "cancelled"


@pytest.mark.parametrize("how", ["unsubscribed", "closed"])
async def test_a_caller_that_vanishes_is_noticed_and_its_call_ended(system: Any, kit: Any, how: str) -> None:
    before = system.fake.connections_closed
    own = await nats.connect(system.url)
    prompt = f"Vanish {how}."
    reading = kit.Stream(own, kit.ask_for(prompt, model="crawl@1"))
    async with reading:
        await reading.until_delta(3)
        run_id = reading.of("started")[0]["run_id"]
        await (reading.leave() if how == "unsubscribed" else own.close())
    await kit.until(lambda: system.fake.connections_closed == before + 1)
    assert [s.ended for s in system.upstream(prompt)] == ["client_closed"]
    await own.close()
    assert [o["outcome"] for o in await found(lambda: system.outcomes(run_id), 5)] == ["cancelled"]


async def test_an_abandoned_attempt_is_ended_upstream_too(system: Any, talk: Any, kit: Any) -> None:
    for name in ("hang", "stall"):
        (seen, *_) = [s for s in system.fake.log if s.model == f"{name}@1"] or [None]
        if seen is None:
            await talk.whole("Abandon.", model=f"{name}@1")
        await kit.until(lambda: all(s.ended != "open" for s in system.fake.log))


# --- the service -----------------------------------------------------------------------------------------------------


async def test_ping_info_and_stats_of_the_selectors(talk: Any, nc: Any, kit: Any) -> None:
    for word in ("PING", "INFO", "STATS"):
        inbox, heard = nc.new_inbox(), list[Any]()

        async def hear(msg: Any, heard: list[Any] = heard) -> None:
            heard.append(json.loads(msg.data))

        sub = await nc.subscribe(inbox, cb=hear)
        await nc.publish(f"$SRV.{word}.selector", b"", reply=inbox)
        await kit.until(lambda heard=heard: len(heard) >= 2)
        assert {one["name"] for one in heard} == {"selector"}
        assert len({one["id"] for one in heard}) == 2
        await sub.unsubscribe()


async def test_models_are_listed_with_their_state(system: Any, talk: Any) -> None:
    listed = await talk.raw(b"{}", "tta.ask.model.list")
    cards = {card["id"]: card for card in listed["models"]}
    assert set(cards) == set(system.topology["models"])
    assert all(card["instances"] == 1 for card in cards.values())
    assert cards["ok@1"]["aliases"] == ["narrator"]


async def test_feedback_is_stored(system: Any, talk: Any) -> None:
    answer = await talk.whole("Rate me.", model="ok@1")
    given = {"run_id": answer["run_id"], "rating": 0.5, "user_id": "someone"}
    taken = await talk.raw(json.dumps(given).encode(), "tta.ask.feedback.give")
    assert taken["type"] == "feedback.taken.v1"
    (event,) = [e for e in await system.events() if e["seq"] == taken["seq"]]
    assert (event["type"], event["run_id"], event["model"]) == ("feedback.given.v1", answer["run_id"], "ok@1")
    assert "someone" not in json.dumps(event)


async def test_many_at_once(talk: Any, kit: Any) -> None:
    """100 in flight: every caller gets its own answer."""
    texts = [f"Crowd {n}." for n in range(100)]
    chosen = ["drip@1", "crawl@1", "drip@victim", "drip@victim2"]
    ends = await asyncio.gather(*(
        talk.whole(t, model=chosen[n % 4], max_tokens=30) for n, t in enumerate(texts)
    ))  # fmt: skip
    for text, end in zip(texts, ends, strict=True):
        assert kit.script(text, 30) == end["text"]
