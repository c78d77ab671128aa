"""What leaves this machine, in the running system: consent, withdrawal while a stream runs, fallback, replay, probes.

The fake provider stands for a vendor: its endpoints are declared `location: external`. What must not have left is
looked for in its own log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio

from understudy.messages.safety import Judged
from understudy.messages.wire import encode

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(40)]
OUT: dict[str, Any] = {"privacy": "external_allowed"}
TEXT = "Your words go to a company that keeps them for thirty days."


def models() -> dict[str, dict[str, Any]]:
    plain = {"continues": "native", "quality": {"default": 0.3}, "slots": 16}
    return {
        "ok@far": {**plain, "provider": "far"},
        "ok@shy": {**plain, "provider": "far", "fallbacks": ["ok@here"]},
        "crawl@far": {**plain, "provider": "far", "fallbacks": ["ok@here"]},
        "cut@here": {**plain, "provider": "lab", "fallbacks": ["ok@far"]},
        "cut@here2": {**plain, "provider": "lab", "fallbacks": ["ok@far"]},
        "500@sick": {**plain, "provider": "sick"},
        "ok@open": {**plain, "provider": "open"},
        "ok@here": {**plain, "provider": "lab", "quality": {"default": 0.2}},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    state: Path = tmp_path_factory.mktemp("consent")
    (state / "key").write_text(kit.KEY + "\n")
    here = {"kind": "openai", "url": fake.url, "key": {"file": "key"}}
    topology = kit.topology_of(
        fake.url,
        "key",
        providers={"lab": here, **{name: {**here, "location": "external"} for name in ("far", "sick", "open")}},
        models=models(),
        aliases={},
        tasks={"general": {"latency": "quick", "max_tokens": 4_000}},
        policy={"failover_minimum": 1_000, "require_judge": False},
        consent={"text": TEXT},
    )
    running = await kit.System(fake, state, topology).start()
    try:
        yield running
    finally:
        await running.stop()


class Consent:
    """Asks about consent, as a component makes them."""

    def __init__(self, nc: Any, talk: Any, until: Any) -> None:
        self.nc, self.talk, self.until = nc, talk, until

    async def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        return await self.talk.raw(json.dumps(fields).encode(), f"tta.ask.consent.{name}")

    async def version(self, provider: str = "far") -> str:
        texts = (await self.ask("list"))["texts"]
        return next(one["version"] for one in texts if one["provider"] == provider)

    async def given(self, provider: str = "far") -> str:
        """A new user who has agreed, and of whom every selector knows."""
        user = f"user-{uuid.uuid4().hex[:8]}"
        taken = await self.ask("give", provider=provider, scope="user", version=await self.version(), user_id=user)
        assert taken["given"] and taken["seq"] > 0
        await self.known(user, provider, True)
        return user

    async def known(self, user: str, provider: str, allowed: bool) -> None:
        good = 0
        async with asyncio.timeout(8):
            while good < 6:
                fields = {"messages": [{"role": "user", "content": "x"}], "user_id": user, **OUT, "explain": True}
                found = await self.talk.raw(json.dumps(fields).encode(), "tta.ask.model.select")
                refused = found.get("rejected_models", {}).get("needs_consent", [])
                good = good + 1 if (f"ok@{provider}" not in refused) == allowed else 0


@pytest.fixture
def consent(nc: Any, talk: Any, kit: Any) -> Consent:
    return Consent(nc, talk, kit.until)


async def test_nothing_leaves_by_default(system: Any, talk: Any) -> None:
    end = await talk.whole("Quiet one.", model="ok@far")
    assert (end["code"], end["rejected"]["wrong_location"]) == ("no_allowed_model", 1)
    end = await talk.whole("Quiet two.", model="ok@far", **OUT)
    assert (end["code"], end["rejected"]["needs_consent"]) == ("no_allowed_model", 1)
    assert system.upstream("Quiet one.") == system.upstream("Quiet two.") == []


async def test_with_consent_it_goes_and_says_so(system: Any, talk: Any, consent: Consent, kit: Any) -> None:
    user = await consent.given()
    end = await talk.whole("Out and back.", model="ok@far", user_id=user, **OUT)
    assert (end["text"], end["location"]) == (kit.script("Out and back."), "external")
    assert end["labels"][0] == "external" and len(system.upstream("Out and back.")) == 1
    (attempt,) = end["attempts"]
    outbound = attempt["outbound"]
    assert (attempt["location"], outbound["provider"]) == ("external", "far")
    assert outbound["bytes"] > 100 and "blocked" not in outbound
    (event,) = [e for e in await system.events() if e["seq"] == outbound["consent"]]
    assert (event["type"], event["scope"]) == ("consent.given.v1", "user") and user not in json.dumps(event)
    (ended,) = await system.outcomes(end["run_id"])
    assert ended["attempts"][0]["outbound"] == outbound

    def lines() -> list[dict[str, Any]]:
        return [x for x in system.log_lines() if x["event"] == "outbound" and x["run_id"] == end["run_id"]]

    await kit.until(lambda: bool(lines()), 5)  # lines are written in batches
    assert [(one["bytes"], one["consent"]) for one in lines()] == [(outbound["bytes"], outbound["consent"])]


async def test_a_fallback_never_crosses_the_line(system: Any, talk: Any, consent: Consent, kit: Any) -> None:
    user = await consent.given()
    end = await talk.whole("Over the hill.", model="cut@here", user_id=user, **OUT)
    assert end["text"] == kit.script("Over the hill.") and end["model"] == "ok@far"
    before = len(system.upstream("Under the hill."))
    end = await talk.whole("Under the hill.", model="cut@here2", user_id=user)
    assert (before, end["type"], [a["model"] for a in end["attempts"]]) == (0, "model.failed.v1", ["cut@here2"])
    assert [seen.model for seen in system.upstream("Under the hill.")] == ["cut@here2"]


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_kept_from_leaving_is_answered_here(
    system: Any, talk: Any, consent: Consent, kit: Any, stream: bool
) -> None:
    """A key in the words: the gate keeps them, and a model of this machine goes on as if nothing had been."""
    from understudy.actors.safety_validator.examples import example
    from understudy.actors.safety_validator.scan import scanner

    rule = next(one.rule for one in scanner("secrets").rules if one.rule.id.startswith("anthropic"))
    prompt, user = f"My key is {example(rule.hits[0])} {stream}.", await consent.given()
    end, _ = await talk.both(stream, prompt, model="ok@shy", user_id=user, **OUT)
    assert (end["type"], end["model"], end["location"]) == ("model.finished.v1", "ok@here", "local"), end
    assert [(a["model"], a["outcome"]) for a in end["attempts"]] == [("ok@shy", "blocked"), ("ok@here", "ok")]
    assert end["attempts"][0]["outbound"]["blocked"] == "secret" and "external" not in end.get("labels", [])
    assert [seen.model for seen in system.upstream(prompt)] == ["ok@here"]
    (ended,) = await system.outcomes(end["run_id"])
    assert ended["attempts"][0]["outbound"]["blocked"] == "content"  # what kind of words it was is not stored


async def test_personal_data_are_taken_out(system: Any, talk: Any, consent: Consent) -> None:
    user, before = await consent.given(), len(system.fake.log)
    end = await talk.whole("Write to anna.berg@lantern.org now.", model="ok@far", user_id=user, **OUT)
    assert end["labels"][:2] == ["external", "redacted"]
    (seen,) = list(system.fake.log)[before:]
    assert [m.text() for m in seen.request.messages] == ["Write to [email] now."]


async def test_a_withdrawal_ends_what_runs(system: Any, talk: Any, consent: Consent, kit: Any) -> None:
    """The stream from outside is cut, and a model of this machine goes on with the text."""
    user = await consent.given()
    async with talk.stream("A long way.", model="crawl@far", user_id=user, **OUT) as reading:
        await reading.until_delta(3)
        taken = await consent.ask("withdraw", provider="far", scope="user", user_id=user)
        assert "given" not in taken or not taken["given"]
        end = await reading.end()
    assert (end["type"], end["model"]) == ("model.finished.v1", "ok@here"), end
    assert [a["outcome"] for a in end["attempts"]] == ["blocked", "ok"]
    assert end["attempts"][0]["outbound"]["blocked"] == "no_consent" and end["attempts"][0]["outbound"]["bytes"] > 0
    assert [s["mode"] for s in reading.of("seam")] == ["continue"] and "external" in end["labels"]
    await kit.until(lambda: system.upstream("A long way.")[0].ended == "client_closed", 5)
    end = await talk.whole("Once more.", model="ok@far", user_id=user, **OUT)
    assert end["code"] == "no_allowed_model" and system.upstream("Once more.") == []


async def test_from_the_answer_on_a_withdrawal_holds(system: Any, talk: Any, consent: Consent) -> None:
    """Not a moment later: selectors may not know yet, and the runner reads the log before each call."""
    for n in range(6):
        user = await consent.given()
        await consent.ask("withdraw", provider="far", scope="user", user_id=user)
        end = await talk.whole(f"Too late {n}.", model="ok@far", user_id=user, **OUT)
        assert end["code"] in ("no_allowed_model", "blocked"), end
        assert system.upstream(f"Too late {n}.") == []


async def test_a_runner_that_was_not_run_meanwhile_hears_of_a_withdrawal_first(
    system: Any, talk: Any, consent: Consent, kit: Any
) -> None:
    """The judge has spoken, the withdrawal is confirmed; then it goes on, and reads the log before it calls."""
    user, pid = await consent.given(), system.process("runner-far").pid
    stopped = asyncio.Event()

    async with await system.operator() as judge:

        def answer(received: Any) -> None:
            os.kill(pid, signal.SIGSTOP)
            judge.bus.send(received.reply, encode(Judged(level=0)))
            stopped.set()

        judging = await judge.bus.subscribe("tta.ask.safety.judge", answer)
        asking = asyncio.create_task(talk.whole("Not any more.", model="ok@far", user_id=user, **OUT))
        try:
            await asyncio.wait_for(stopped.wait(), 5)
            await consent.ask("withdraw", provider="far", scope="user", user_id=user)
        finally:
            os.kill(pid, signal.SIGCONT)
        end = await asking
        await judging.stop()
    assert (end["code"], end["attempts"][0]["outbound"]["blocked"]) == ("blocked", "no_consent"), end
    assert system.upstream("Not any more.") == []


async def test_no_copy_of_a_consent_undoes_its_withdrawal(
    system: Any, talk: Any, nc: Any, consent: Consent, kit: Any
) -> None:
    """A guest has the server answer into the log; it shuts no gate either, and the operator can read of it."""
    user, other = await consent.given(), await consent.given()
    (given,) = [c["seq"] for c in (await consent.ask("list", user_id=user))["consents"]]
    withdrawn = (await consent.ask("withdraw", provider="far", scope="user", user_id=user))["seq"]
    ask = json.dumps({"seq": given, "no_hdr": True}).encode()
    await nc.publish("$JS.API.DIRECT.GET.TTA_EVT", ask, reply="tta.evt.consent.given")
    await nc.publish("$JS.API.DIRECT.GET.TTA_EVT", b'{"seq":99999999}', reply="tta.evt.consent.given")
    async with await system.operator() as client:
        async with asyncio.timeout(5):
            while await client.bus.last_seq("TTA_EVT") < withdrawn + 2:
                await asyncio.sleep(0.02)
    end = await talk.whole("As before.", model="ok@far", user_id=user, **OUT)
    assert end["code"] in ("no_allowed_model", "blocked") and system.upstream("As before.") == []
    end = await talk.whole("As ever.", model="ok@far", user_id=other, **OUT)
    assert end["type"] == "model.finished.v1", end
    await kit.until(lambda: any(x.get("error") == "Foreign" for x in system.log_lines()), 5)


async def test_leaving_the_user_out_goes_round_nobodys_no(system: Any, talk: Any, consent: Consent) -> None:
    """Everybody here has agreed, and the conversation; one user has not."""
    version, user, talking = await consent.version("open"), "says-no", {"conversation_id": "a-talk", **OUT}
    code, _, _ = await system.cli("consent", "give", "open", "--version", version, "--installation")
    assert code == 0
    await consent.known("other", "open", True)
    await consent.ask("give", provider="open", scope="conversation", version=version, conversation_id="a-talk")
    await consent.ask("withdraw", provider="open", scope="user", user_id=user)
    end = await talk.whole("Nobody's.", model="ok@open", **talking)
    assert (end["code"], end["path"]) == ("no_allowed_model", "$.user_id") and "user_id" in end["text"]
    end = await talk.whole("Somebody's.", model="ok@open", user_id=user, **talking)
    assert end["code"] in ("no_allowed_model", "blocked"), end
    assert system.upstream("Nobody's.") == system.upstream("Somebody's.") == []
    end = await talk.whole("Another's.", model="ok@open", user_id="other", **talking)
    assert (end["type"], end["location"]) == ("model.finished.v1", "external"), end


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"provider": "far", "scope": "user", "user_id": "u", "version": "0" * 16}, "$.version"),
    ({"provider": "lab", "scope": "user", "user_id": "u", "version": "x"}, "$.provider"),
    ({"provider": "far", "scope": "user", "version": "x"}, "$.user_id"),
    ({"provider": "far", "scope": "user", "user_id": "u", "conversation_id": "c", "version": "x"}, "$.conversation_id"),
    ({"provider": "far", "scope": "installation", "version": "x"}, "$.scope"),
    ({"provider": "far", "user_id": "u", "version": "x"}, "$"),
    ({"provider": "far", "scope": "user", "user_id": "u"}, "$"),
]


@pytest.mark.parametrize(("fields", "path"), WRONG)
async def test_nothing_about_consent_is_guessed(consent: Consent, fields: dict[str, Any], path: str) -> None:
    answer = await consent.ask("give", **fields)
    assert (answer["type"], answer["code"], answer["path"]) == ("model.failed.v1", "invalid", path)


async def test_only_the_operator_speaks_for_everybody(system: Any, kit: Any) -> None:
    """The server itself keeps a component from the subject."""
    refused: list[Exception] = []

    async def on_error(error: Exception) -> None:
        refused.append(error)

    guest = await nats.connect(system.url, error_cb=on_error)
    await guest.publish("tta.ask.consent.give.installation", b"{}")
    await guest.flush()
    await kit.until(lambda: any("permissions violation" in str(error).lower() for error in refused), 5)
    await guest.close()


async def test_the_command_and_a_probe_that_may_not_leave(system: Any, talk: Any, consent: Consent, kit: Any) -> None:
    """Without the installation's consent no probe goes out: what rested is used again, after the healthy ones."""
    code, out, _ = await system.cli("consent", "list", "--json")
    texts = {one["provider"]: one for one in json.loads(out)["texts"]}
    assert code == 0 and texts["sick"]["text"] == TEXT and texts["sick"]["address"] == "127.0.0.1"
    version, user = texts["sick"]["version"], f"user-{uuid.uuid4().hex[:8]}"
    code, out, _ = await system.cli("consent", "give", "sick", "--version", version, "--user", user, "--json")
    assert code == 0 and json.loads(out)["given"]
    for n in range(3):
        await talk.whole(f"Ill {n}.", model="500@sick", user_id=user, **OUT)

    async def told(kind: str) -> bool:
        return any(e["type"] == f"model.{kind}.v1" and e["model"] == "500@sick" for e in await system.events())

    async with asyncio.timeout(15):
        while not await told("degraded"):
            await asyncio.sleep(0.1)
    probes = [s for s in system.fake.log if s.request and any(m.text() == "Say yes." for m in s.request.messages)]
    assert await told("unavailable") and probes == []
    code, out, _ = await system.cli("consent", "withdraw", "sick", "--installation")
    assert code == 0 and out.startswith("withdrawn: sick, installation")
    code, _, err = await system.cli("consent", "give", "sick", "--version", "old", "--installation")
    assert code == 1 and "version" in err


async def test_every_decision_can_be_repeated(system: Any) -> None:
    code, out, _ = await system.cli("replay", "--json")
    report = json.loads(out)
    assert (code, report["differ"]) == (0, []), report["differ"]
    assert report["compared"] >= 8
