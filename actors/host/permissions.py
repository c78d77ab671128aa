"""From the topology to the server's permissions: one NATS user per process, allowed what its entry says and no more.

Actors' inboxes live under `_INBOX_A.<instance>.>`, which no guest may read or write. Pure.
"""

from __future__ import annotations

import json

from msgspec import Struct

from understudy.bus.subjects import ACTOR_INBOX, cache_bucket, claims_bucket, evt_stream, trace_stream
from understudy.messages.events import OUTCOMES
from understudy.messages.topology import ActorPlan, Topology

GUEST_FAMILIES = ("model", "feedback", "consent")
"""The families of asks that components may send; `runner` is for actors alone."""

GUEST_SHORT = ("consent",)
"""Of these only what has no further word: `consent.give.installation` is the operator's."""


KEYS = {"runner.run": ".*.*", "safety.judge": ""}
"""Behind an ask that is sent, where it can be told from nobody who answers it: provider and model, or nothing."""

OF_PROVIDERS = ("key.refused",)
"""Facts of runners about their provider: its models may be a list's, which nobody knows when permissions are made."""

TO_OPERATOR = ("runner.pull.{provider}", "benchmark.run")
"""Asks that are answered in parts to the operator, in an inbox below `_INBOX_A.operator` that no guest may read."""

REPLIES = {"max": 1, "expires": "10m"}
"""One answer per question, for so long: longer than anybody waits (`understudy graph sum`: 5 minutes), as an answer
that comes later is dropped, and whoever asked hears nothing. Streams of answers have their own grant."""


class User(Struct, frozen=True):
    """A NATS user: name, password, and the subjects it may publish and subscribe.

    `replies`: it may also answer what it was asked, once, wherever the asker waits.
    """

    name: str
    password: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    replies: bool = False


class Seat(Struct, frozen=True):
    """A process to be: which actor, which instance, and for runners the slugs of their provider and their models.

    `whole`: it serves every model of its provider, also those that a list brings later.
    """

    actor: str
    instance: str
    slugs: tuple[str, ...] = ()
    provider: str = ""
    whole: bool = False


def inbox_of(instance: str) -> str:
    """The inbox prefix of an actor's process."""
    return f"{ACTOR_INBOX}.{instance}"


def expand(pattern: str, seat: Seat) -> tuple[str, ...]:
    """`model.cancel.{instance}` and `runner.run.{provider}.{model}` for one process."""
    text = pattern.replace("{instance}", seat.instance).replace("{provider}", seat.provider)
    models = ("*",) if seat.whole else seat.slugs
    return tuple(text.replace("{model}", s) for s in models) if "{model}" in text else (text,)


def users(topology: Topology, seats: list[Seat], passwords: dict[str, str]) -> list[User]:
    """Every actor's user, the operator (supervisor and command line) and the guest."""
    found = [_actor(topology, topology.actors[s.actor], s, seats, passwords[s.instance]) for s in seats]
    operator = User("operator", passwords["operator"], (">",), (">",))
    return [*found, operator, _guest(topology)]


def _actor(topology: Topology, plan: ActorPlan, seat: Seat, seats: list[Seat], password: str) -> User:
    app = topology.app
    publish = [f"{app}.evt.{name}{tail}" for name in plan.emits for tail in _tails(seat, name)]
    publish += [f"{app}.obs.{name}.{seat.instance}" for name in plan.observes]
    publish += [f"{app}.ask.{name}{_keys(topology, name)}" for name in plan.sends]
    publish += _inboxes_of_askers(topology, plan, seat, seats)
    publish.append(f"{app}.dead.{seat.actor}.{seat.instance}")
    if plan.folds:
        publish += _reading(evt_stream(app))
    if plan.projects:
        publish += [f"$JS.API.{one}.{evt_stream(app)}" for one in ("STREAM.INFO", "DIRECT.GET")]
    if plan.consults:
        publish.append(f"$JS.API.DIRECT.GET.{evt_stream(app)}")
    if plan.follows:
        publish += [f"$JS.API.{one.format(trace_stream(app))}" for one in ("STREAM.INFO.{}", "DIRECT.GET.{}")]
    if seat.actor == "selector":
        bucket = claims_bucket(app)
        publish += [f"{app}.trace.selection.made.{seat.instance}", f"$KV.{bucket}.>"]
        publish.append(f"$JS.API.DIRECT.GET.KV_{bucket}.>")
        publish.append(f"{inbox_of(seat.instance)}.*.traced.>")  # where the server reports on a caller's absence
    if seat.actor == "response_cache":
        bucket = cache_bucket(app)
        publish += [f"$KV.{bucket}.>", f"$JS.API.DIRECT.GET.KV_{bucket}.>", f"$JS.API.STREAM.PURGE.KV_{bucket}"]
    subscribe = [f"{inbox_of(seat.instance)}.>"]
    subscribe += [f"{app}.ask.{s}" for name in plan.asks for s in expand(name, seat)]
    subscribe += [f"{app}.obs.{name}.*" for name in plan.hears]
    subscribe += [f"{app}.live.{name}{tail}" for name in plan.folds if name not in OUTCOMES for tail in ("", ".*")]
    subscribe += [f"{app}.live.{name}" for name in plan.consults]
    if plan.asks:
        # Spelled out: the server takes an allowed `$SRV.*` for `$SRV.>` too.
        tails = ("", f".{seat.actor}", f".{seat.actor}.*")
        subscribe += [f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in tails]
    replies = bool(plan.asks) and "_INBOX.>" not in publish
    return User(seat.instance, password, tuple(publish), tuple(subscribe), replies)


def _reading(stream: str) -> list[str]:
    """The API calls of an ordered reader and of fetching one message, and its flow control."""
    calls = ("STREAM.INFO.{}", "CONSUMER.CREATE.{}.*", "CONSUMER.DELETE.{}.*", "DIRECT.GET.{}")
    return [*(f"$JS.API.{one.format(stream)}" for one in calls), f"$JS.FC.{stream}.>"]


def _keys(topology: Topology, name: str) -> str:
    """What stands behind the name of an ask that is sent: most go to one instance, some to whoever answers."""
    shared = any(name in plan.asks for plan in topology.actors.values())
    return KEYS.get(name, "" if shared else ".*")


def _tails(seat: Seat, name: str) -> list[str]:
    """The keys under which a process may state facts: a runner its own models alone, and its provider."""
    if seat.actor != "runner":
        return ["", ".*"]
    return [f".{seat.provider}"] if name in OF_PROVIDERS else [f".{s}" for s in seat.slugs]


def _inboxes_of_askers(topology: Topology, plan: ActorPlan, seat: Seat, seats: list[Seat]) -> list[str]:
    """Where answers may stream to: guests' inboxes if guests may ask us, and the inboxes of other actors that send to
    us (what instances of one actor send each other are orders without an answer)."""
    found = ["_INBOX.>"] if {name.split(".")[0] for name in plan.asks} & set(GUEST_FAMILIES) else []
    asked = {".".join(name.split(".")[:2]) for name in plan.asks}
    askers = [s for s in seats if s.actor != seat.actor and asked & set(topology.actors[s.actor].sends)]
    found += [f"{inbox_of('operator')}.>"] if set(TO_OPERATOR) & set(plan.asks) else []
    return found + [f"{inbox_of(s.instance)}.>" for s in askers]


def _guest(topology: Topology) -> User:
    app, stream = topology.app, evt_stream(topology.app)
    publish = [f"{app}.ask.{family}.{'*' if family in GUEST_SHORT else '>'}" for family in GUEST_FAMILIES]
    # One message of the log at a time (it holds no content), for `Client.changes`. The server answers where the reply
    # subject points, so a guest can have copies put where it may not publish: readers know them (`nats_message`).
    publish += [f"$JS.API.DIRECT.GET.{stream}", "$SRV.>"]
    return User("guest", "", tuple(publish), ("_INBOX.>", f"{app}.live.model.>", f"{app}.live.provider.>"))


def merged(before: list[User], after: list[User]) -> list[User]:
    """What both lists allow together: while a topology is changed under running processes."""
    found = {user.name: user for user in before}
    for user in after:
        old = found.get(user.name)
        publish, subscribe = (old.publish, old.subscribe) if old is not None else ((), ())
        found[user.name] = User(
            user.name,
            user.password,
            tuple(dict.fromkeys((*publish, *user.publish))),
            tuple(dict.fromkeys((*subscribe, *user.subscribe))),
            user.replies or (old is not None and old.replies),
        )
    return list(found.values())


def server_text(found: list[User]) -> str:
    """The users as nats-server reads them; an unnamed client on loopback is the guest."""
    lines = ["authorization {", "  users: ["]
    for user in found:
        allow = (
            f"publish: {{ allow: {json.dumps(user.publish)} }}, subscribe: {{ allow: {json.dumps(user.subscribe)} }}"
        )
        if user.replies:
            allow += f", allow_responses: {json.dumps(REPLIES)}"
        name, password = json.dumps(user.name), json.dumps(user.password)
        lines.append(f"    {{ user: {name}, password: {password}, permissions: {{ {allow} }} }}")
    return "\n".join([*lines, "  ]", "}", "no_auth_user: guest", ""])
