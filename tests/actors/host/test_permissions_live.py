"""Actor x subject on a real nats-server with the generated permissions: every try ends as the topology's entry says.

The expectation is computed here from the entry alone, not from `permissions.py`; the protocol is spoken raw, so that
what is counted is the server's own word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
import pytest_asyncio
import yaml

from understudy.actors.host.permissions import Seat, server_text, users
from understudy.actors.host.seats import seats_of
from understudy.actors.host.topology import parse
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.bus.subjects import matches
from understudy.messages.topology import Topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUEST_FAMILIES = ("model", "feedback", "consent")
KEYS = {
    "model.generate": "",
    "runner.run": ".*.*",
    "safety.judge": "",
    "ledger.reserve": "",
    "ledger.quote": "",
    "cache.look": "",
    "cache.keep": "",
    "catalogue.refresh": "",
}


class Raw:
    """One connection, spoken by hand: what is refused is said before the PONG of a PING behind it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.messages = reader, writer, list[tuple[str, bytes]]()
        self.sids = 0

    @classmethod
    async def open(cls, url: str, user: str, password: str) -> Self:
        host, _, port = url.removeprefix("nats://").partition(":")
        raw = cls(*await asyncio.open_connection(host, int(port)))
        await raw.reader.readline()
        hello: dict[str, Any] = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        if user != "guest":
            hello |= {"user": user, "pass": password}
        assert await raw.say(b"CONNECT " + json.dumps(hello).encode()) == []
        return raw

    async def say(self, line: bytes) -> list[str]:
        """Send a line; the refusals that it met."""
        self.writer.write(line + b"\r\nPING\r\n")
        refused: list[str] = []
        while True:
            got = (await asyncio.wait_for(self.reader.readline(), 5)).decode().strip()
            match got.split(" ")[0]:
                case "PONG":
                    return refused
                case "MSG" | "HMSG":
                    size = int(got.split(" ")[-1])
                    self.messages.append((got.split(" ")[1], (await self.reader.readexactly(size + 2))[:-2]))
                case "-ERR":
                    refused.append(got)
                case "":
                    raise ConnectionError("the server closed the connection")
                case _:
                    pass

    async def may_publish(self, subject: str) -> bool:
        return not await self.say(f"PUB {subject} 2\r\n{{}}".encode())

    async def may_subscribe(self, subject: str) -> bool:
        self.sids += 1
        refused = await self.say(f"SUB {subject} {self.sids}".encode())
        if not refused:
            await self.say(f"UNSUB {self.sids}".encode())
        return not refused

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class House:
    """The committed topology with one more provider, its seats, and a server with their permissions."""

    def __init__(self, topology: Topology, server: NatsServer) -> None:
        self.topology, self.server, self.opened = topology, server, list[Raw]()
        self.seats = [p.seat for p in seats_of(topology)]
        self.passwords = {s.instance: f"pw-{s.instance}" for s in self.seats} | {"operator": "pw-operator"}
        server.extra = server_text(users(topology, self.seats, self.passwords))

    async def open(self, name: str) -> Raw:
        self.opened.append(await Raw.open(self.server.url, name, self.passwords.get(name, "")))
        return self.opened[-1]

    async def close(self) -> None:
        for raw in self.opened:
            await raw.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    raw = yaml.safe_load((root / "topology.yaml").read_text())
    raw["providers"]["lab"] = {"kind": "openai", "url": "http://127.0.0.1:9/v1"}
    listed = {"kind": "openrouter", "url": "http://127.0.0.1:9/v1", "catalogue": {"admit": {"ids": ["*"]}}}
    raw["providers"]["hub"] = listed  # no model of it has a name yet
    raw["models"] |= {"org/one:free": {"provider": "lab"}, "two": {"provider": "lab"}}
    house = House(parse(yaml.safe_dump(raw), root), NatsServer(tmp_path_factory.mktemp("nats")))
    with house.server:
        bus = await NatsBus.open(house.server.url, name="op", user="operator", password="pw-operator")
        await provision(bus, BusSpec())
        yield house
        await house.close()
        await bus.close()


# --- what the entry says -------------------------------------------------------------------------------------------


def own(name: str, seat: Seat) -> list[str]:
    text = name.replace("{instance}", seat.instance).replace("{provider}", seat.provider)
    models = (
        ["*"] if seat.instance in ("runner-lab", "runner-hub") else seat.slugs
    )  # an endpoint serves whatever its provider has
    return [text.replace("{model}", s) for s in models] if "{model}" in text else [text]


def asked_by(house: House, seat: Seat) -> list[Seat]:
    """The actors that send to this one: they wait in their inboxes."""
    names = {".".join(a.split(".")[:2]) for a in house.topology.actors[seat.actor].asks}
    others = [s for s in house.seats if s.actor != seat.actor]
    return [s for s in others if names & set(house.topology.actors[s.actor].sends)]


def publishes(house: House, seat: Seat) -> list[str]:
    """Patterns that the entry of a seat allows it to publish."""
    plan = house.topology.actors[seat.actor]
    found = [f"tta.obs.{o}.{seat.instance}" for o in plan.observes]
    for event in plan.emits:
        if event == "key.refused":
            found.append(f"tta.evt.{event}.{seat.provider}")
        elif seat.actor == "runner":
            found += [f"tta.evt.{event}.{s}" for s in seat.slugs]
        else:
            found += [f"tta.evt.{event}", f"tta.evt.{event}.*"]
    found += [f"tta.ask.{sent}{KEYS.get(sent, '.*')}" for sent in plan.sends]
    found += [f"_INBOX_A.{s.instance}.>" for s in asked_by(house, seat)]
    in_parts = {"runner.pull.{provider}", "benchmark.run"} & set(plan.asks)
    found += ["_INBOX_A.operator.>"] if in_parts else []
    found += ["_INBOX.>"] if {a.split(".")[0] for a in plan.asks} & set(GUEST_FAMILIES) else []
    found.append(f"tta.dead.{seat.actor}.{seat.instance}")
    found += ["$JS.API.DIRECT.GET.TTA_EVT"] if plan.consults or plan.projects else []
    found += ["$JS.API.STREAM.INFO.TTA_EVT"] if plan.projects else []
    if plan.follows:
        found += ["$JS.API.STREAM.INFO.TTA_TRACE", "$JS.API.DIRECT.GET.TTA_TRACE"]
    for stream in ["TTA_EVT"] if plan.folds else []:
        verbs = ("STREAM.INFO.{}", "DIRECT.GET.{}", "CONSUMER.CREATE.{}.*", "CONSUMER.DELETE.{}.*")
        found += [f"$JS.API.{v.format(stream)}" for v in verbs] + [f"$JS.FC.{stream}.>"]
    if seat.actor == "selector":
        found += [f"tta.trace.selection.made.{seat.instance}", "$KV.TTA_CLAIMS.>"]
        found.append("$JS.API.DIRECT.GET.KV_TTA_CLAIMS.>")
    if seat.actor == "response_cache":
        found += ["$KV.TTA_CACHE.>", "$JS.API.DIRECT.GET.KV_TTA_CACHE.>", "$JS.API.STREAM.PURGE.KV_TTA_CACHE"]
    return found


def subscribes(house: House, seat: Seat) -> list[str]:
    """Patterns that the entry of a seat allows it to hear."""
    plan = house.topology.actors[seat.actor]
    found = [f"_INBOX_A.{seat.instance}.>", *(f"tta.obs.{h}.*" for h in plan.hears)]
    found += [f"tta.ask.{s}" for a in plan.asks for s in own(a, seat)]
    announced = [fact for fact in plan.folds if fact not in ("request.ended", "attempt.ended")]  # those are fetched
    found += [f"tta.live.{fact}{key}" for fact in announced for key in ("", ".*")]
    found += [f"tta.live.{fact}" for fact in plan.consults]
    tails = ("", f".{seat.actor}", f".{seat.actor}.*") if plan.asks else ()
    return found + [f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in tails]


def guest(how: str) -> list[str]:
    if how == "subscribe":
        return ["_INBOX.>", "tta.live.model.>", "tta.live.provider.>"]
    return ["tta.ask.model.>", "tta.ask.feedback.>", "tta.ask.consent.*", "$SRV.>", "$JS.API.DIRECT.GET.TTA_EVT"]


def allowed(house: House, name: str, how: str) -> list[str]:
    if name == "guest":
        return guest(how)
    seat = next(s for s in house.seats if s.instance == name)
    return publishes(house, seat) if how == "publish" else subscribes(house, seat)


def covered(pattern: str, subject: str) -> bool:
    """Whether an allowed pattern covers a subject, or a wider subscription as a whole."""
    if subject == ">" or (subject.endswith(">") and not pattern.endswith(">")):
        return pattern == subject
    return matches(pattern, subject.replace("*", "any"))


# --- every subject there is ----------------------------------------------------------------------------------------


def subjects(house: House) -> list[str]:
    """Every subject of the system, by kind, with the keys of every seat; and the wide ones."""
    slugs = sorted({s for seat in house.seats for s in seat.slugs})
    plans = house.topology.actors.values()
    found = [f"tta.ask.{x}" for s in house.seats for a in house.topology.actors[s.actor].asks for x in own(a, s)]
    found += [
        "tta.ask.model.resend.selector-1",
        "tta.ask.runner.run.lab.another",
        "tta.ask.runner.run.local.another",
        "tta.ask.model.load",
        "tta.ask.benchmark.run",
        "tta.ask.supervisor.reload",
        "tta.ask.safety.judge",
        "tta.ask.safety.judge.x",
    ]
    facts = sorted({e for p in plans for e in (*p.emits, *p.folds)} | {"no.such"})
    found += [f"tta.{kind}.{fact}{tail}" for kind in ("evt", "live") for fact in facts for tail in ("", f".{slugs[0]}")]
    found += [f"tta.evt.model.loaded.{s}" for s in slugs]
    found += [f"tta.evt.key.refused.{s.provider}" for s in house.seats if s.provider]
    seen = sorted({o for p in plans for o in (*p.observes, *p.hears)})
    found += [f"tta.obs.{o}.{key}" for o in seen for key in (*slugs, *(s.instance for s in house.seats))]
    found += [f"tta.trace.selection.made.{s.instance}" for s in house.seats]
    found += [f"tta.dead.{s.actor}.{s.instance}" for s in house.seats]
    found += [f"_INBOX_A.{s.instance}.{tail}" for s in house.seats for tail in ("run.r1.0", "probe.p1", "vanished.r1")]
    found += ["_INBOX.someone.1", "_INBOX_A.nobody.x", "$KV.TTA_CLAIMS.request.x", "$KV.OTHER.x"]
    found += ["$KV.TTA_CACHE.c.e", "$JS.API.DIRECT.GET.KV_TTA_CACHE.$KV.TTA_CACHE.c.e"]
    streams = ("TTA_EVT", "TTA_TRACE", "TTA_DEAD", "KV_TTA_CLAIMS", "KV_TTA_CACHE")
    verbs = ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE")
    found += [f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs for stream in streams]
    found += [f"$JS.API.CONSUMER.{v}.{s}.x" for v in ("CREATE", "DELETE", "INFO", "MSG.NEXT", "PAUSE") for s in streams]
    found += [f"$JS.API.DIRECT.GET.{s}{tail}" for s in streams for tail in ("", ".$KV.TTA_CLAIMS.request.x")]
    found += [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.FC.TTA_EVT.a.b",
        "$JS.FC.TTA_DEAD.a.b",
    ]
    found += ["$JS.ACK.TTA_EVT.c.1.1.1.1.0", "$SYS.REQ.SERVER.PING", "$SYS.ACCOUNT.x"]
    return found + [f"$SRV.{v}{t}" for v in ("PING", "INFO", "STATS") for t in ("", ".selector", ".runner.ID1")]


WIDE = (">", "tta.>", "tta.ask.>", "tta.evt.>", "tta.obs.>", "tta.live.>", "tta.live.model.>", "tta.dead.>", "_INBOX.>",
        "_INBOX_A.>", "_INBOX_A.*.run.>", "$JS.>", "$JS.API.>", "$KV.>", "$SRV.>", "$SYS.>",
        "*.ask.model.generate")  # fmt: skip

NAMES = ("selector-1", "selector-2", "runner-demo_story-lead", "runner-demo_story-second", "runner-lab", "runner-hub",
         "health_tracker-1", "cost_ledger-1", "model_manager-1", "response_cache-1", "projector-1",
         "benchmarker-1", "guest")  # fmt: skip


@pytest.mark.parametrize("how", ["publish", "subscribe"])
@pytest.mark.parametrize("name", NAMES)
async def test_each_seat_may_do_what_its_entry_says_and_no_more(house: House, name: str, how: str) -> None:
    assert {*(s.instance for s in house.seats), "guest"} == set(NAMES)
    patterns, raw = allowed(house, name, how), await house.open(name)
    tried = [*subjects(house), *(WIDE if how == "subscribe" else ())]
    assert len(tried) > 150
    really: dict[str, bool] = {}
    for subject in tried:
        really[subject] = await (raw.may_publish(subject) if how == "publish" else raw.may_subscribe(subject))
    expected = {subject: any(covered(p, subject) for p in patterns) for subject in tried}
    assert {s: may for s, may in really.items() if may != expected[s]} == {}
    assert 0 < sum(really.values()) < len(tried)


async def test_the_operator_may_do_everything(house: House) -> None:
    raw = await house.open("operator")
    assert all([await raw.may_publish(s) for s in ("tta.ask.supervisor.reload", "tta.obs.process.gone.x", "anything")])
    assert all([await raw.may_subscribe(s) for s in WIDE])


async def test_a_guest_reads_no_word_of_an_actors_inbox_and_no_actor_one_of_another(house: House) -> None:
    said = "_INBOX_A.selector-1.run.r1.0"
    readers = {name: await house.open(name) for name in NAMES}
    for raw in readers.values():
        for sid, subject in enumerate((said, "_INBOX_A.>", "_INBOX_A.*.run.>", "*.selector-1.>", ">"), 1):
            await raw.say(f"SUB {subject} {sid}".encode())
    runner = await house.open("runner-lab")
    assert await runner.may_publish(said)
    heard = {name for name, raw in readers.items() if not await raw.say(b"PING") and raw.messages}
    assert heard == {"selector-1"}


async def test_a_runner_answers_the_one_who_asked_and_no_other_guest(house: House) -> None:
    """Its service answers a guest's PING, though it may not write to guests' inboxes, nor go on writing to this one."""
    runner, asker = await house.open("runner-lab"), await house.open("guest")
    await runner.say(b"SUB $SRV.PING 1")
    await asker.say(b"SUB _INBOX.asker.1 1")
    assert not await runner.may_publish("_INBOX.asker.1")
    assert await asker.say(b"PUB $SRV.PING _INBOX.asker.1 0\r\n") == []
    await runner.say(b"PING")
    assert await runner.may_publish("_INBOX.asker.1")
    for _ in range(3):
        await runner.may_publish("_INBOX.asker.1")
    await asker.say(b"PING")
    assert asker.messages == [("_INBOX.asker.1", b"{}")]


async def test_an_answer_that_takes_its_time_arrives_once(house: House) -> None:
    """A checksum over a large graph: what is asked for patiently may be answered then."""
    projector, operator = await house.open("projector-1"), await house.open("operator")
    await projector.say(b"SUB tta.ask.graph.sum 1")
    await operator.say(b"SUB _INBOX.patient.1 1")
    assert await operator.say(b"PUB tta.ask.graph.sum _INBOX.patient.1 0\r\n") == []
    await projector.say(b"PING")
    await asyncio.sleep(5.5)  # the permission once ended after five seconds
    assert await projector.may_publish("_INBOX.patient.1")
    await projector.may_publish("_INBOX.patient.1")
    await operator.say(b"PING")
    assert operator.messages == [("_INBOX.patient.1", b"{}")]


async def test_no_service_writes_with_its_own_rights_where_a_guest_points(house: House) -> None:
    """The server lets a guest name any reply subject; the permission to answer once covers it, and a selector's own."""
    names = ("selector-1", "runner-lab")
    served: list[NatsBus] = []
    for name in names:
        seat = next(s for s in house.seats if s.instance == name)
        bus = await NatsBus.open(
            house.server.url, name=name, user=name, password=house.passwords[name], inbox_prefix=f"_INBOX_A.{name}"
        )
        served.append(bus)
        shared = [a for a in house.topology.actors[seat.actor].asks if "{instance}" not in a]
        asks = [f"tta.ask.{one}" for a in shared for one in own(a, seat)]
        await bus.serve(seat.actor, "1.0.0", "", {s: _echo(bus) for s in asks})
    operator, asker = await house.open("operator"), await house.open("guest")
    for sid, subject in enumerate(("tta.evt.>", "tta.obs.>", "tta.live.>", "_INBOX_A.*.run.>"), 1):
        await operator.say(f"SUB {subject} {sid}".encode())
    await asker.say(b"SUB _INBOX.asker.1 1")
    verbs = [f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in ("", ".selector", ".runner")]
    tries = [*verbs, "tta.ask.model.generate"]
    bad = ("tta.evt.attempt.ended.x", "tta.evt.model.loaded.x", "tta.obs.process.gone.x", "_INBOX_A.selector-1.run.x")
    for subject in tries:
        for reply in bad:
            assert await asker.say(f"PUB {subject} {reply} 2\r\n{{}}".encode()) == []
        await asker.say(f"PUB {subject} _INBOX.asker.1 2\r\n{{}}".encode())
    async with asyncio.timeout(5):
        while len(asker.messages) < 3 * 4 + 1:  # the good ones are all answered, and came last
            await asyncio.sleep(0.02)
            await asker.say(b"UNSUB 99")
    for bus in served:
        await bus.client.settle()
        await bus.close()
    await operator.say(b"PING")
    assert operator.messages == []


def _echo(bus: NatsBus) -> Any:
    return lambda asked: bus.send(asked.reply, asked.payload)


async def test_what_a_guest_has_the_server_put_into_the_log_is_no_event(house: House) -> None:
    """By all ways we know of: answers of the API, with and without headers, reports of a trace, deliveries."""
    bus = await NatsBus.open(house.server.url, name="op", user="operator", password="pw-operator")
    guest = await house.open("guest")
    withdrawn = b'{"type":"consent.withdrawn.v1","at_ms":1,"provider":"far","scope":"user"}'
    (said,) = await bus.store([Outgoing("tta.evt.consent.withdrawn", withdrawn, "said")], timeout_s=3)
    get, to, one = "$JS.API.DIRECT.GET.TTA_EVT", "tta.evt.consent.given", json.dumps({"seq": said.seq})
    bodies = [one, one[:-1] + ',"no_hdr":true}', one[:-1] + ',"batch":3,"no_hdr":true}', '{"seq":999999}', ""]
    tries = [(get, body) for body in bodies]
    tries += [(f"{get}.tta.evt.consent.withdrawn", ""), ("$JS.API.STREAM.INFO.TTA_EVT", ""), ("$JS.API.INFO", "")]
    consumer = {"stream_name": "TTA_EVT", "config": {"deliver_subject": to, "ack_policy": "none"}}
    tries += [("$JS.API.CONSUMER.CREATE.TTA_EVT.x", json.dumps(consumer)), ("$SRV.PING", ""), (to, "{}")]
    for subject, body in tries:
        await guest.say(f"PUB {subject} {to} {len(body)}\r\n{body}".encode())
    head = f"NATS/1.0\r\nNats-Trace-Dest: {to}\r\n\r\n"
    await guest.say(f"HPUB tta.ask.model.generate _INBOX.x {len(head)} {len(head) + 2}\r\n{head}{{}}".encode())
    (last,) = await bus.store([Outgoing("tta.evt.consent.withdrawn", withdrawn, "last")], timeout_s=3)
    found = [await bus.get("TTA_EVT", seq) for seq in range(said.seq, last.seq + 1)]
    ours = [one.seq for one in found if one is not None and not one.foreign]
    assert ours == [said.seq, last.seq] and len(found) > 4  # the control: what may be asked was answered there
    await bus.close()
