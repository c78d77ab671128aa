"""What a guest may not do, and what stands nowhere: no content, no id, no key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import nats
import pytest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


# --- what a guest may not do -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("reply", ["tta.evt.request.ended.smuggled", "tta.obs.process.gone.x", "_INBOX_A.selector-1.x"])
async def test_no_answer_goes_where_a_guest_may_not_write(
    system: Any, nc: Any, talk: Any, kit: Any, reply: str
) -> None:
    """The server checks no reply subject, so actors would publish there with their own rights."""
    heard: list[str] = []

    async def on_message(msg: Any) -> None:
        heard.append(msg.subject)

    operator = await nats.connect(system.url, user="operator", password=system.supervisor.operator_password)
    prompt = f"Smuggle {reply}."
    async with talk.stream("An answer under way.", model="drip@1") as run:
        await operator.subscribe(reply, cb=on_message)
        await operator.flush()
        started = await run.next()
        ask = json.dumps(kit.ask_for(prompt, model="ok@1", stream=True)).encode()
        order = json.dumps({"run_id": started["run_id"], "from_seq": 0}).encode()
        for subject, payload in (
            ("tta.ask.model.generate", ask),
            ("tta.ask.model.generate", b"no JSON"),
            ("tta.ask.model.list", b"{}"),
            (f"tta.ask.model.resend.{started['instance']}", order),
            (f"tta.ask.model.cancel.{started['instance']}", order),
            *((f"$SRV.{verb}.{actor}", b"") for verb in ("PING", "INFO", "STATS") for actor in ("selector", "runner")),
        ):
            await nc.publish(subject, payload, reply=reply)
        await nc.flush()
        assert (await run.end())["type"] == "model.finished.v1", "an order that cannot be answered is not carried out"
    await talk.whole("Afterwards.", model="ok@1")
    await operator.flush()
    await operator.close()
    assert heard == [] and not system.upstream(prompt)
    assert any(x.get("event") == "reply_refused" for x in system.log_lines())


# --- no content anywhere ---------------------------------------------------------------------------------------------

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
        json.dumps({f"{CANARY}-field": 1, **kit.ask_for("Hi.")}),
        json.dumps(kit.ask_for("Hi.", model=f"{CANARY}-model")),
        json.dumps(kit.ask_for("Hi.", task=f"{CANARY}-task")),
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
