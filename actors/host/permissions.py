"""From the topology to the server's permissions: one NATS user per process, allowed what its entry says and no more.

Actors' inboxes live under `_INBOX_A.<instance>.>`, which no guest may read or write. Pure.
"""

from __future__ import annotations

import json

from msgspec import Struct

from understudy.bus.subjects import claims_bucket, evt_stream, trace_stream
from understudy.messages.topology import ActorPlan, Topology

ACTOR_INBOX = "_INBOX_A"
GUEST_FAMILIES = ("model", "feedback")
"""The families of asks that components may send; `runner` is for actors alone."""


class User(Struct, frozen=True):
    """A NATS user: name, password, and the subjects it may publish and subscribe."""

    name: str
    password: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class Seat(Struct, frozen=True):
    """A process to be: which actor, which instance, and for runners the slugs of its models."""

    actor: str
    instance: str
    slugs: tuple[str, ...] = ()


def inbox_of(instance: str) -> str:
    """The inbox prefix of an actor's process."""
    return f"{ACTOR_INBOX}.{instance}"


def expand(pattern: str, seat: Seat) -> tuple[str, ...]:
    """`model.cancel.{instance}` and `runner.run.{model}` for one process."""
    text = pattern.replace("{instance}", seat.instance)
    return tuple(text.replace("{model}", s) for s in seat.slugs) if "{model}" in text else (text,)


def users(topology: Topology, seats: list[Seat], passwords: dict[str, str]) -> list[User]:
    """Every actor's user, the operator (supervisor and command line) and the guest."""
    found = [_actor(topology, topology.actors[s.actor], s, seats, passwords[s.instance]) for s in seats]
    operator = User("operator", passwords["operator"], (">",), (">",))
    return [*found, operator, _guest(topology)]


def _actor(topology: Topology, plan: ActorPlan, seat: Seat, seats: list[Seat], password: str) -> User:
    app = topology.app
    publish = [f"{app}.evt.{name}{tail}" for name in plan.emits for tail in ("", ".*")]
    publish += [f"{app}.obs.{name}.*" for name in plan.observes]
    publish += [f"{app}.ask.{name}.*" for name in plan.sends]
    publish += _answers(topology, plan, seat, seats)
    publish.append(f"{app}.dead.{seat.actor}.>")
    if plan.emits or plan.folds:
        publish += [f"$JS.API.{one}" for one in _reading(evt_stream(app))]
        publish.append("$JS.FC.>")
    if seat.actor == "selector":
        bucket = claims_bucket(app)
        publish += [f"{app}.trace.selection.made.*", f"$KV.{bucket}.>", f"$JS.API.DIRECT.GET.KV_{bucket}.>"]
    if plan.follows:
        publish += [f"$JS.API.{one}" for one in _reading(trace_stream(app))]
    subscribe = [f"{inbox_of(seat.instance)}.>"]
    subscribe += [f"{app}.ask.{s}" for name in plan.asks for s in expand(name, seat)]
    subscribe += [f"{app}.obs.{name}.*" for name in plan.hears]
    if plan.asks:
        subscribe.append("$SRV.>")
    return User(seat.instance, password, tuple(publish), tuple(subscribe))


def _reading(stream: str) -> list[str]:
    """The API calls of an ordered reader and of fetching one message."""
    calls = ("STREAM.INFO.{}", "CONSUMER.CREATE.{}.>", "CONSUMER.CREATE.{}", "CONSUMER.DELETE.{}.>")
    return [one.format(stream) for one in (*calls, "DIRECT.GET.{}", "DIRECT.GET.{}.>")]


def _answers(topology: Topology, plan: ActorPlan, seat: Seat, seats: list[Seat]) -> list[str]:
    """Where replies may go: guests' inboxes if guests may ask us, and the inboxes of actors that send to us."""
    families = {name.split(".")[0] for name in plan.asks}
    found = ["_INBOX.>"] if plan.asks else []
    if families & set(GUEST_FAMILIES) or plan.asks:
        asked = {".".join(name.split(".")[:2]) for name in plan.asks}
        found += [
            f"{inbox_of(s.instance)}.>"
            for s in seats
            if s.actor != seat.actor and asked & set(topology.actors[s.actor].sends)
        ]
    # Its own inbox: the client's watchdog asks itself whether it still hears.
    return [*found, f"{inbox_of(seat.instance)}.>"]


def _guest(topology: Topology) -> User:
    app, stream = topology.app, evt_stream(topology.app)
    publish = [f"{app}.ask.{family}.>" for family in GUEST_FAMILIES]
    # Reading the log (it holds no content) without consumers: a consumer could deliver where a guest may not publish.
    publish += [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>"]
    publish += ["$SRV.>", "_INBOX.>"]
    return User("guest", "", tuple(publish), ("_INBOX.>", f"{app}.live.model.>"))


def server_text(found: list[User]) -> str:
    """The users as nats-server reads them; an unnamed client on loopback is the guest."""
    lines = ["authorization {", "  users: ["]
    for user in found:
        allow = (
            f"publish: {{ allow: {json.dumps(user.publish)} }}, subscribe: {{ allow: {json.dumps(user.subscribe)} }}"
        )
        name, password = json.dumps(user.name), json.dumps(user.password)
        lines.append(f"    {{ user: {name}, password: {password}, permissions: {{ {allow} }} }}")
    return "\n".join([*lines, "  ]", "}", "no_auth_user: guest", ""])
