"""The whole system over a real nats-server and real processes, asked as any component would ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml

from tests.system.expected import FIRST, MID, ODD, WHOLE, assert_whole, tried
from tests.waiting import found
from understudy.actors.host.bus_side import CannotStart
from understudy.actors.host.topology import TopologyError, parse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


# --- (1) nats-py and json, nothing of ours -------------------------------------------------------------------------


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


# --- (2) every fault, a healthy model behind it --------------------------------------------------------------------


@WHOLE
@pytest.mark.parametrize("name", FIRST)
async def test_a_model_that_fails_before_its_first_word_leaves_no_trace(
    talk: Any, kit: Any, name: str, stream: bool
) -> None:
    prompt = f"First {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@1")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@1", FIRST[name]), ("ok@next", "ok")]
    assert end.get("seams", 0) == 0


@WHOLE
@pytest.mark.parametrize("name", MID)
async def test_a_broken_stream_is_continued_with_one_seam(talk: Any, kit: Any, name: str, stream: bool) -> None:
    prompt = f"Middle {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@1")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@1", MID[name]), ("ok@next", "ok")]
    assert end["seams"] == 1
    if reading is not None:
        (seam,) = reading.of("seam")
        assert (seam["mode"], seam["from_model"], seam["to_model"]) == ("continue", f"{name}@1", "ok@next")
        assert seam["reason"] == MID[name]
        assert seam["keep_seq"] >= 0


@WHOLE
@pytest.mark.parametrize("name", MID)
async def test_where_the_next_model_cannot_continue_it_begins_anew_visibly(
    talk: Any, kit: Any, name: str, stream: bool
) -> None:
    prompt = f"Anew {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@plain")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@plain", MID[name]), ("ok@plain", "ok")]
    assert end["seams"] == 1
    if reading is not None:
        (seam,) = reading.of("seam")
        assert (seam["mode"], seam["keep_seq"]) == ("restart", -1)


@WHOLE
@pytest.mark.parametrize(("first", "second"), [("cut@instructed", "instructed@1"), ("cut@echo", "echo@1")])
async def test_an_instructed_model_continues_and_its_repetition_is_trimmed(
    talk: Any, kit: Any, first: str, second: str, stream: bool
) -> None:
    prompt = f"Instructed {first} {stream}."
    end, reading = await talk.both(stream, prompt, model=first)
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(first, "broken_stream"), (second, "ok")]
    assert end["seams"] == 1


@WHOLE
async def test_two_cuts_in_one_answer(talk: Any, kit: Any, stream: bool) -> None:
    prompt = f"Twice {stream}."
    end, reading = await talk.both(stream, prompt, model="cut@twice")
    assert_whole(end, reading, kit.script(prompt))
    assert [m for m, _ in tried(end)] == ["cut@twice", "cut@again", "ok@next"]
    assert end["seams"] == 2


@WHOLE
@pytest.mark.parametrize("name", ODD)
async def test_odd_but_healthy_answers_need_one_attempt(talk: Any, kit: Any, name: str, stream: bool) -> None:
    prompt = f"Odd {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@1")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@1", "ok")]
    assert end["usage"].get("estimated", False) == (name == "no-usage")


@WHOLE
async def test_nobody_at_the_endpoint(talk: Any, kit: Any, stream: bool) -> None:
    end, reading = await talk.both(stream, "Nobody.", model="ok@nobody")
    assert_whole(end, reading, kit.script("Nobody."))
    assert tried(end) == [("ok@nobody", "refused_connection"), ("ok@next", "ok")]


async def test_order_by_quality_and_failover_to_the_next_best(talk: Any, kit: Any) -> None:
    end = await talk.whole("Ranked.", task="ranked")
    assert_whole(end, None, kit.script("Ranked."))
    assert tried(end) == [("500@best", "server_error"), ("ok@best", "ok")]


@WHOLE
async def test_length_and_refusal_are_answers(talk: Any, kit: Any, stream: bool) -> None:
    end, reading = await talk.both(stream, "Long.", model="length@1")
    assert_whole(end, reading, kit.script("Long.", 12))
    assert (end["finish_reason"], tried(end)) == ("length", [("length@1", "ok")])
    end, reading = await talk.both(stream, "No.", model="refusal@1")
    assert_whole(end, reading, "I'm sorry, but I can't help with that.")
    assert (end["finish_reason"], tried(end)) == ("refusal", [("refusal@1", "ok")])


@WHOLE
async def test_a_refusal_goes_to_the_next_model_where_the_caller_says_so(talk: Any, kit: Any, stream: bool) -> None:
    prompt = f"Refused {stream}."
    end, reading = await talk.both(stream, prompt, model="refusal@1", on_refusal="next")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [("refusal@1", "refused"), ("ok@next", "ok")]


@WHOLE
@pytest.mark.parametrize("name", ["400", "413", "422", "context-too-long"])
async def test_the_callers_fault_is_told_after_one_attempt(talk: Any, system: Any, name: str, stream: bool) -> None:
    prompt = f"Fault {name} {stream}."
    end, _ = await talk.both(stream, prompt, model=f"{name}@1")
    code = "context_too_long" if name == "context-too-long" else "caller_fault"
    assert (end["type"], end["code"]) == ("model.failed.v1", code)
    assert tried(end) == [(f"{name}@1", code)]
    assert end["attempts"][0]["status"] == (int(name) if name.isdigit() else 400)
    assert len(system.upstream(prompt)) == 1
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["outcome"] == code


async def test_context_too_long_goes_only_to_a_larger_window(talk: Any, kit: Any) -> None:
    end = await talk.whole("Larger.", model="context-too-long@2")
    assert_whole(end, None, kit.script("Larger."))
    assert tried(end) == [("context-too-long@2", "context_too_long"), ("ok@large", "ok")]


@WHOLE
@pytest.mark.parametrize(("model", "resumable"), [("cut@alone", True), ("500@alone", False)])
async def test_no_truncated_answer_is_called_finished(
    talk: Any, system: Any, kit: Any, model: str, resumable: bool, stream: bool
) -> None:
    end, reading = await talk.both(stream, "Alone.", model=model)
    assert (end["type"], end["code"], len(end["attempts"])) == ("model.failed.v1", "all_failed", 1)
    assert end.get("resumable", False) is (resumable and stream)
    assert "text" in end and kit.script("Alone.")[:12] not in end["text"]
    if reading is not None:
        assert kit.script("Alone.").startswith(reading.text)
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["outcome"] == "all_failed"


@WHOLE
async def test_a_whole_text_whose_end_was_lost_is_asked_for_again_visibly(talk: Any, kit: Any, stream: bool) -> None:
    """The next model has nothing to add: that is no proof that nothing is missing, and no failure either."""
    prompt = f"Stop {stream}."
    words = kit.script(prompt).split(" ")
    stop = f"{words[9]} {words[10]}"  # all before it is out when the stream breaks
    end, reading = await talk.both(stream, prompt, model="cut@whole", stop=[stop])
    assert_whole(end, reading, " ".join(words[:9]) + " ")
    assert (end["finish_reason"], end["seams"]) == ("stop", 1)
    assert tried(end) == [("cut@whole", "broken_stream"), ("ok@next", "empty"), ("ok@next", "ok")]
    if reading is not None:
        assert [seam["mode"] for seam in reading.of("seam")] == ["restart"]


@WHOLE
async def test_a_stream_that_breaks_at_its_last_token_has_ended(talk: Any, kit: Any, stream: bool) -> None:
    prompt = f"Last {stream}."
    end, reading = await talk.both(stream, prompt, model="cut@last", max_tokens=10)
    assert_whole(end, reading, kit.script(prompt, 10))
    assert (end["finish_reason"], tried(end)) == ("length", [("cut@last", "broken_stream")])
    assert end["usage"]["completion_tokens"] == 10 and end["usage"]["estimated"]


async def test_resume_goes_on_from_the_kept_text(talk: Any, kit: Any) -> None:
    text = kit.script("Resume.")
    end = await talk.whole("Resume.", model="ok@1", resume={"run_id": "01X", "text": text[:60]})
    assert end["text"] == text


# --- (3, 4, 10) processes die --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "mode"), [("drip@victim", "continue"), ("drip@victim2", "restart")])
async def test_kill_9_of_the_runner_in_mid_stream(system: Any, talk: Any, kit: Any, model: str, mode: str) -> None:
    prompt = f"Killed {mode}."
    async with talk.stream(prompt, model=model) as reading:
        await reading.until_delta(5)
        restarts = await system.kill("runner-victim")
        began = kit.clock()
        end = await reading.end()
    assert kit.clock() - began < 5
    assert_whole(end, reading, kit.script(prompt))
    assert [m for m, _ in tried(end)] == [model, "ok@next" if mode == "continue" else "ok@plain"]
    assert tried(end)[0][1] == "gone"
    assert [s["mode"] for s in reading.of("seam")] == [mode]
    assert len(await system.outcomes(end["run_id"])) == 1
    await system.back("runner-victim", restarts)
    await _serving(talk, kit, model)


async def test_a_runner_that_hangs_is_left_and_its_late_words_are_dropped(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    pid = system.process("runner-victim").pid
    async with talk.stream("Frozen.", model="drip@victim") as reading:
        await reading.until_delta(5)
        os.kill(pid, signal.SIGSTOP)
        try:
            end = await reading.end()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert_whole(end, reading, kit.script("Frozen."))
        assert tried(end)[0][1] in ("stall_timeout", "silent")
        await kit.until(lambda: all(s.ended != "open" for s in system.upstream("Frozen.")))
        with pytest.raises(TimeoutError):
            await reading.next(0.2)
    assert len(await system.outcomes(end["run_id"])) == 1
    assert system.process("runner-victim").pid == pid
    await _serving(talk, kit, "drip@victim")


async def _serving(talk: Any, kit: Any, model: str) -> None:
    """The model itself answers again (bounded: until its breaker has closed)."""
    until = kit.clock() + 10
    while True:
        end = await talk.whole("Back?", model=model)
        if tried(end) == [(model, "ok")]:
            return
        assert kit.clock() < until, end
        await asyncio.sleep(0.05)


async def test_kill_9_of_the_runner_under_thirty_streams(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    prompts = [f"Thirty {n}." for n in range(30)]

    async def read(prompt: str) -> tuple[Any, Any]:
        async with talk.stream(prompt, model="drip@victim") as reading:
            return await reading.end(), reading

    tasks = [asyncio.create_task(read(p)) for p in prompts]
    await kit.until(lambda: all(any(s.tokens_sent > 3 for s in system.upstream(p)) for p in prompts))
    restarts = await system.kill("runner-victim")
    ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
    runs = list[str]()
    for prompt, (end, reading) in zip(prompts, await asyncio.gather(*tasks), strict=True):
        text = kit.script(prompt)
        assert reading.text == end["text"] == text
        assert_whole(end, reading, text)
        runs.append(end["run_id"])
        if end["run_id"] not in ended:
            assert tried(end) in ([("drip@victim", "gone"), ("ok@next", "ok")], [("drip@victim", "ok")])
    ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
    assert [ended.count(run) for run in runs] == [1] * 30
    await system.back("runner-victim", restarts)


async def test_a_dead_runner_is_announced_and_so_is_its_return(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    guest = await nats.connect(system.url)
    heard: list[tuple[str, Any]] = []

    async def hear(msg: Any) -> None:
        heard.append((msg.subject, json.loads(msg.data)))

    await guest.subscribe("tta.live.model.>", cb=hear)
    await guest.flush()
    restarts = await system.kill("runner-victim")

    def words() -> list[str]:
        return [s.removeprefix("tta.live.model.") for s, _ in heard if s.endswith("drip_victim")]

    await kit.until(lambda: "recovered.drip_victim" in words())
    await guest.close()
    assert words().index("unavailable.drip_victim") < words().index("recovered.drip_victim")
    gone = next(b for s, b in heard if s == "tta.live.model.unavailable.drip_victim")
    assert (gone["model"], gone["reason"]) == ("drip@victim", "gone")
    await system.back("runner-victim", restarts)


async def test_kill_9_of_a_selector_the_other_serves(system: Any, talk: Any, kit: Any) -> None:
    prompt = "Selector dies."
    async with talk.stream(prompt, model="drip@1") as reading:
        await reading.until_delta(5)
        victim = reading.of("started")[0]["instance"]
        pid = system.process(victim).pid
        restarts = await system.kill(victim)
        await kit.until(lambda: not kit.alive(pid))
        others = await asyncio.gather(*(talk.stream(f"Other {n}.", model="ok@1").__aenter__() for n in range(6)))
        for n, other in enumerate(others):
            end = await other.end()
            assert_whole(end, other, kit.script(f"Other {n}."))
            assert other.of("started")[0]["instance"] != victim
            await other.leave()
        kept = {"run_id": reading.of("started")[0]["run_id"], "text": reading.text}
        end = await talk.whole(prompt, model="ok@1", resume=kept)
        assert end["text"] == kit.script(prompt)
    await system.back(victim, restarts)


# --- (5) bad input -------------------------------------------------------------------------------------------------

USER = [{"role": "user", "content": "Hi."}]


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": USER, **fields}).encode()


BAD = {
    "nothing": (b"", "invalid", "$"),
    "not json": (b"hello", "invalid", "$"),
    "half json": (b'{"messages": [', "invalid", "$"),
    "a list": (b"[]", "invalid", "$"),
    "not utf-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "invalid", None),
    "deep": (b"[" * 100_000, "invalid", "$"),
    "deep in a field": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid", None),
    "no messages": (b"{}", "invalid", "$"),
    "empty messages": (body(messages=[]), "invalid", "$.messages"),
    "blank messages": (body(messages=[{"role": "user", "content": "  "}]), "invalid", "$.messages"),
    "messages a text": (body(messages="Hi."), "invalid", "$.messages"),
    "content a number": (body(messages=[{"role": "user", "content": 3}]), "invalid", "$.messages[0].content"),
    "content null": (body(messages=[{"role": "user", "content": None}]), "invalid", "$.messages[0].content"),
    "unknown role": (body(messages=[{"role": "wizard", "content": "Hi."}]), "invalid", "$.messages[0].role"),
    "control character": (body(messages=[{"role": "user", "content": "a\0b"}]), "invalid", "$.messages[0].content"),
    "escape character": (body(messages=[*USER, {"role": "user", "content": "\x1b[31m"}]), "invalid",
                         "$.messages[1].content"),
    "lone surrogate": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid", None),
    "unknown field": (body(mdoel="ok@1"), "invalid", "$"),
    "wrong tag": (body(type="model.cancel.v1"), "invalid", "$.type"),
    "negative max_tokens": (body(max_tokens=-5), "invalid", "$.max_tokens"),
    "zero max_tokens": (body(max_tokens=0), "invalid", "$.max_tokens"),
    "huge max_tokens": (body(max_tokens=10**30), "invalid", "$.max_tokens"),
    "fractional max_tokens": (body(max_tokens=1.5), "invalid", "$.max_tokens"),
    "hot": (body(temperature=2.5), "invalid", "$.temperature"),
    "NaN": (b'{"messages": [{"role": "user", "content": "Hi."}], "temperature": NaN}', "invalid", "$"),
    "no time": (body(deadline_ms=0), "invalid", "$.deadline_ms"),
    "stream a word": (body(stream="yes"), "invalid", "$.stream"),
    "empty stop": (body(stop=[""]), "invalid", "$.stop[0]"),
    "many stops": (body(stop=["x"] * 17), "invalid", "$.stop"),
    "negative seed": (body(seed=-1), "invalid", "$.seed"),
    "model with a space": (body(model="ok 1"), "invalid", "$.model"),
    "model with a line end": (body(model="ok@1\n"), "invalid", "$.model"),
    "empty model": (body(model=""), "invalid", "$.model"),
    "label with a space": (body(labels=["a b"]), "invalid", "$.labels[0]"),
    "conversation with a control character": (body(conversation_id="a\x01"), "invalid", "$.conversation_id"),
    "unknown model": (body(model="no/such:model"), "unknown_model", "$.model"),
    "unknown task": (body(task="juggling"), "unknown_task", "$.task"),
    "5 MB": (body(messages=[{"role": "user", "content": "x" * 5_000_000}]), "too_large", "$"),
    "5 MB of rubbish": (b"x" * 5_000_000, "too_large", "$"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
async def test_bad_input_is_answered_with_code_and_path(system: Any, talk: Any, kit: Any, name: str) -> None:
    payload, code, path = BAD[name]
    pids = {p.seat.instance: p.pid for p in system.supervisor.processes}
    for subject in ("tta.ask.model.generate", "tta.ask.model.select"):
        if name == "wrong tag" and subject.endswith("select"):
            continue
        failed = await talk.raw(payload, subject)
        assert (failed["type"], failed["code"]) == ("model.failed.v1", code), failed
        assert "path" in failed
        assert path is None or failed["path"] == path
        assert len(failed["text"]) > 20
    assert {p.seat.instance: p.pid for p in system.supervisor.processes} == pids


async def test_bad_input_to_the_other_asks_and_without_a_reply(system: Any, talk: Any, nc: Any, kit: Any) -> None:
    pids = {p.seat.instance: p.pid for p in system.supervisor.processes}
    for name in ("list", "describe", "select", "generate", "cancel.selector-1"):
        for payload in (b"", b"x", b"[]", b'{"nope": 1}', b'{"model": 3}', b'{"run_id": ""}'):
            subject = f"tta.ask.model.{name}"
            await nc.publish(subject, payload)
            assert (await talk.raw(payload, subject))["code"] == "invalid"
    for given in ({"run_id": "x", "rating": 2}, {"run_id": "x", "rating": "good"}, {"rating": 1}):
        assert (await talk.raw(json.dumps(given).encode(), "tta.ask.feedback.give"))["code"] == "invalid"
    assert (await talk.raw(b'{"model": "none"}', "tta.ask.model.describe"))["code"] == "unknown_model"
    assert await talk.raw(b'{"run_id": "none"}', "tta.ask.model.cancel.selector-1") == {
        "type": "model.cancelled.v1", "run_id": "none", "known": False,
    }  # fmt: skip
    await nc.publish("tta.ask.model.generate", body())
    end = await talk.whole("Still here?", model="ok@1")
    assert end["text"] == kit.script("Still here?")
    assert {p.seat.instance: p.pid for p in system.supervisor.processes} == pids


async def test_a_request_just_below_the_limit_is_judged_by_its_content(talk: Any) -> None:
    failed = await talk.raw(body(messages=[{"role": "user", "content": "x" * 3_900_000}], model="ok@1"))
    assert (failed["code"], failed["rejected"]["context_too_small"]) == ("no_allowed_model", 2)


async def test_ids_with_dots_slashes_and_colons_work(talk: Any, kit: Any) -> None:
    name = "ok@org.x/model-name:v1.5"
    end = await talk.whole("Dotted.", model=name)
    assert (end["model"], end["text"]) == (name, kit.script("Dotted."))
    described = await talk.raw(json.dumps({"model": name}).encode(), "tta.ask.model.describe")
    assert (described["card"]["id"], described["card"]["loaded"]) == (name, True)


async def test_words_of_any_script_and_odd_characters_travel_unchanged(system: Any, talk: Any, kit: Any) -> None:
    prompt = 'Zoë 小春 🦊 \u2028 "quoted" \\back {json: [1]} <<<x>>> \tTab\nLine \u200d'
    end = await talk.whole(prompt, model="ok@1")
    assert end["text"] == kit.script(prompt)
    assert len(system.upstream(prompt)) == 1


# --- (6) cancelling ------------------------------------------------------------------------------------------------


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


# --- (7) what a guest may not do -----------------------------------------------------------------------------------


async def _refused(system: Any, kit: Any, act: Any) -> str:
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error).lower())

    guest = await nats.connect(system.url, error_cb=on_error)
    with contextlib.suppress(nats.errors.Error):
        await act(guest)
        await guest.flush()
    with contextlib.suppress(TimeoutError):
        await kit.until(lambda: errors, 2)
    await guest.close()
    return " ".join(errors)


@pytest.mark.parametrize("subject", [
    "_INBOX_A.>", "_INBOX_A.selector-1.run.>", "tta.ask.>", "tta.ask.model.generate", "tta.evt.>", "tta.obs.>",
    "tta.live.>", "tta.live.request.>", "tta.dead.>", "tta.trace.>", "$JS.>", "$SYS.>", ">", "$KV.>",
])  # fmt: skip
async def test_a_guest_may_not_subscribe(system: Any, kit: Any, subject: str) -> None:
    async def subscribe(guest: Any) -> None:
        await guest.subscribe(subject)

    assert "permissions violation" in await _refused(system, kit, subscribe)


@pytest.mark.parametrize("subject", [
    "tta.evt.request.ended", "tta.ask.runner.run.ok_1", "tta.ask.runner.cancel.runner-lab", "tta.live.model.degraded.x",
    "tta.obs.process.gone.runner-lab", "tta.obs.runner.beat.ok_1", "_INBOX_A.selector-1.run.x.0", "tta.dead.x",
    "$JS.API.STREAM.DELETE.TTA_EVT", "$JS.API.STREAM.PURGE.TTA_EVT", "$JS.API.CONSUMER.CREATE.TTA_EVT.x",
    "$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.MSG.DELETE.TTA_EVT", "tta.trace.selection.made.selector-1",
])  # fmt: skip
async def test_a_guest_may_not_publish(system: Any, kit: Any, subject: str) -> None:
    async def publish(guest: Any) -> None:
        await guest.publish(subject, b"{}", reply="_INBOX.x")

    assert "permissions violation" in await _refused(system, kit, publish)


async def test_no_password_no_other_name(system: Any) -> None:
    host, _, port = system.url.removeprefix("nats://").partition(":")
    for user, password in (("operator", ""), ("operator", "x"), ("selector-1", "")):
        reader, writer = await asyncio.open_connection(host, int(port))
        hello = {"user": user, "pass": password, "verbose": False, "pedantic": False}
        writer.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\nPING\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        assert b"Authorization Violation" in answer


# --- (8) no content anywhere ---------------------------------------------------------------------------------------

CANARY = "canary-7f3e"


async def test_no_content_no_id_and_no_key_in_log_events_or_store(system: Any, talk: Any, nc: Any, kit: Any) -> None:
    prompt = f"My secret is {CANARY}-text."
    ids = {"conversation_id": f"{CANARY}-conversation", "user_id": f"{CANARY}-user", "request_id": f"{CANARY}-request"}
    labels = ["kept-label-41"]
    said = set[str]()
    for model in ("ok@1", "cut@1", "refusal@1", "400@1", "500@alone", "crawl@1"):
        limit = {"max_tokens": 20} if model == "crawl@1" else {}
        ids["request_id"] = f"{CANARY}-request-{model}"
        end = await talk.whole(prompt, model=model, labels=labels, **ids, **limit)
        said.add((end.get("text") or "")[:24])
    resumed = {"run_id": "x", "text": f"{CANARY}-resumed"}
    await talk.whole(prompt, model="ok@1", resume=resumed)
    for payload in (
        f'{{"messages": "{CANARY}-broken',
        json.dumps({"messages": [{"role": f"{CANARY}-role", "content": f"{CANARY}-x\0"}]}),
        json.dumps({f"{CANARY}-field": 1, "messages": USER}),
        json.dumps({"messages": USER, "model": f"{CANARY}-model"}),
        json.dumps({"messages": USER, "task": f"{CANARY}-task"}),
        json.dumps({"messages": [{"role": "user", "content": f"{CANARY}-control\x01"}]}),
    ):
        assert "code" in await talk.raw(payload.encode())
        await nc.publish("tta.ask.model.generate", payload.encode())
    await nc.flush()
    last = await talk.whole("A last one.", model="ok@1")
    await kit.until(lambda: last["run_id"] in (system.state / "actors.log").read_text())

    events = json.dumps(await system.events())
    assert last["run_id"] in events and labels[0] in events, "the search itself works"
    log = (system.state / "actors.log").read_bytes().decode(errors="replace")
    assert last["run_id"] in log
    stored = {p: p.read_bytes() for p in (system.state / "nats").rglob("*") if p.is_file()}
    assert any(last["run_id"].encode() in data for data in stored.values())
    whole = {"events": events, "actors.log": log, **{str(p): d.decode(errors="replace") for p, d in stored.items()}}
    answers = [re.escape(text) for text in said if len(text) > 10 and not text.startswith(("Every", "The", "A fault"))]
    assert answers
    for where, text in whole.items():
        found = re.search("|".join([CANARY, re.escape(kit.KEY), *answers]), text)
        assert found is None, f"{where}: …{text[max(0, found.start() - 60) : found.end() + 40]}…"
    (outcome,) = [e for e in json.loads(events) if e.get("run_id") == last["run_id"]]
    assert outcome.get("conversation", "") == ""
    hashed = [e for e in json.loads(events) if e["type"] == "request.ended.v1" and e.get("conversation")]
    assert len({(e["conversation"], e["user"]) for e in hashed}) == 1
    assert len(hashed) == 6


async def test_stop_strings_are_content_too(system: Any, talk: Any) -> None:
    await talk.whole("Stop.", model="ok@1", stop=["kanarie-stop"])
    assert "kanarie-stop" not in json.dumps(await system.events())


# --- (9) the service ------------------------------------------------------------------------------------------------


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
    given = {"run_id": "run-1", "rating": 0.5, "user_id": "someone"}
    taken = await talk.raw(json.dumps(given).encode(), "tta.ask.feedback.give")
    assert taken["type"] == "feedback.taken.v1"
    (event,) = [e for e in await system.events() if e["seq"] == taken["seq"]]
    assert (event["type"], event["run_id"], "someone" in json.dumps(event)) == ("feedback.given.v1", "run-1", False)


async def test_many_at_once(talk: Any, kit: Any) -> None:
    """100 in flight: every caller gets its own answer."""
    texts = [f"Crowd {n}." for n in range(100)]
    chosen = ["drip@1", "crawl@1", "drip@victim", "drip@victim2"]
    ends = await asyncio.gather(*(
        talk.whole(t, model=chosen[n % 4], max_tokens=30) for n, t in enumerate(texts)
    ))  # fmt: skip
    for text, end in zip(texts, ends, strict=True):
        assert kit.script(text, 30) == end["text"]


# --- (11, 12) start, stop, refusal ---------------------------------------------------------------------------------


async def test_stop_leaves_nothing_and_a_second_supervisor_is_refused(fake: Any, kit: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(kit.KEY)
    few = {"ok@1": {"provider": "lab"}, "crawl@1": {"provider": "lab"}}
    topology = kit.topology_of(fake.url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})
    system = await kit.System(fake, tmp_path, topology).start()
    assert system.supervisor.bus_side.server is not None
    pids = {*system.pids, system.supervisor.bus_side.server.pid}
    assert all(kit.alive(pid) for pid in pids)
    assert len(pids) == 5  # two selectors, a tracker, a runner, the server
    run_file = tmp_path / "run.json"
    assert run_file.stat().st_mode & 0o077 == 0
    with pytest.raises(CannotStart, match="another"):
        await kit.System(fake, tmp_path, topology).supervisor.run()
    assert run_file.exists(), "the refused one must not take the running one's file away"
    assert all(kit.alive(pid) for pid in pids)
    nc = await nats.connect(system.url, allow_reconnect=False)
    reading = kit.Stream(nc, kit.ask_for("Stopped while speaking.", model="crawl@1", max_tokens=4000))
    async with reading:
        await reading.until_delta(3)
        began = kit.clock()
        await system.stop()
        assert kit.clock() - began < 5
    await nc.close()
    await kit.until(lambda: not any(kit.alive(pid) for pid in pids), 2)
    assert not run_file.exists()
    assert system.said[-1][0] == "stopped"
    await kit.until(lambda: all(s.ended != "open" for s in system.upstream("Stopped while speaking.")))
    again = await kit.System(fake, tmp_path, topology).start()
    await again.stop()


async def test_kill_9_of_the_server_loses_no_outcome_and_it_comes_back(fake: Any, kit: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(kit.KEY)
    few = {"ok@1": {"provider": "lab"}}
    topology = kit.topology_of(fake.url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})
    system = await kit.System(fake, tmp_path, topology).start()
    try:
        nc = await nats.connect(system.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_quiet)
        ask = json.dumps(kit.ask_for("Server.")).encode()
        runs = [json.loads((await nc.request("tta.ask.model.generate", ask)).data)["run_id"] for _ in range(5)]
        server = system.supervisor.bus_side.server
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await kit.until(lambda: server.pid not in (0, old))
        until, end = kit.clock() + 10, None
        while end is None or end["type"] != "model.finished.v1":
            assert kit.clock() < until, end
            with contextlib.suppress(nats.errors.Error):
                end = json.loads((await nc.request("tta.ask.model.generate", ask, timeout=2)).data)
            await asyncio.sleep(0.05)
        await nc.close()
        ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
        assert [ended.count(run) for run in [*runs, end["run_id"]]] == [1] * 6
        assert all(p.restarts == 0 for p in system.supervisor.processes)
    finally:
        await system.stop()


async def _quiet(_: Exception) -> None:
    return None


async def test_kill_9_of_the_supervisor_leaves_nothing_running(fake: Any, kit: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(kit.KEY)
    few = {"ok@1": {"provider": "lab"}}
    topology = kit.topology_of(fake.url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    code = (
        "import asyncio, pathlib as p; from understudy.actors.host.supervisor import Supervisor;"
        "from understudy.actors.host.topology import read; f = p.Path('.').resolve();"
        "asyncio.run(Supervisor(read(f / 'topology.yaml'), f, f / 'state', lambda *_, **__: None).run())"
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=tmp_path)
    run_file, pids = tmp_path / "state" / "run.json", list[int]()

    def ready() -> bool:
        with contextlib.suppress(OSError, ValueError):
            processes = json.loads(run_file.read_text())["processes"]
            pids[:] = [p["pid"] for p in processes]
            return all(p["ready"] for p in processes)
        return False

    try:
        await kit.until(ready, 15)
        pids.append(int((tmp_path / "state" / "nats" / "nats.pid").read_text()))
        assert len(pids) == 5 and all(map(kit.alive, pids))
    finally:
        supervisor.kill()
        await supervisor.wait()
    await kit.until(lambda: not any(map(kit.alive, pids)), 12)


async def test_a_stop_ends_what_is_in_hand(fake: Any, kit: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(kit.KEY)
    few = {"crawl@1": {"provider": "lab"}}
    topology = kit.topology_of(fake.url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})
    system = await kit.System(fake, tmp_path, topology).start()
    nc = await nats.connect(system.url, allow_reconnect=False, error_cb=_quiet)
    async with kit.Stream(nc, kit.ask_for("In hand.", model="crawl@1", max_tokens=4000)) as reading:
        await reading.until_delta(3)
        stopping = asyncio.create_task(system.stop())
        try:
            end = await reading.end()
        finally:
            await stopping
            await nc.close()
    assert (end["type"], end["code"], end["resumable"]) == ("model.failed.v1", "interrupted", True)


@pytest.mark.parametrize("url", ["https://api.example.com/v1", "http://10.0.0.1:8000/v1", "http://127.0.0.1.example/v1",
                                 "http://0.0.0.0:1/v1", "//127.0.0.1/v1", "http://key@127.0.0.1/v1", "http://[::1",
                                 "http://127.0.0.1:99999/v1", "ftp://127.0.0.1/v1", "localhost:8000/v1"])  # fmt: skip
async def test_an_endpoint_off_loopback_is_refused(kit: Any, tmp_path: Path, url: str) -> None:
    few = {"ok@1": {"provider": "lab"}}
    topology = kit.topology_of(
        "http://127.0.0.1:1/v1", "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}}
    )
    parse(yaml.safe_dump(topology), tmp_path)
    topology["providers"]["lab"]["url"] = url
    with pytest.raises(TopologyError) as refused:
        parse(yaml.safe_dump(topology), tmp_path)
    assert [p.path for p in refused.value.problems] == ["$.providers.lab.url"]


async def test_a_missing_key_is_said_before_anything_starts(kit: Any, fake: Any, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no key in the file"):
        kit.System(fake, tmp_path, kit.topology_of(fake.url, "key"))
