"""From the topology to the server's permissions: one NATS user per process, allowed what its entry says and no more.

Actors' inboxes live under `_INBOX_A.<instance>.>`, which no guest may read or write. Pure.
"""

from __future__ import annotations

import json

from msgspec import Struct

from understudy.bus.subjects import ACTOR_INBOX, claims_bucket, evt_stream, trace_stream
from understudy.messages.events import OUTCOMES
from understudy.messages.topology import ActorPlan, Topology

GUEST_FAMILIES = ("model", "feedback")
"""The families of asks that components may send; `runner` is for actors alone."""


REPLIES = {"max": 1, "expires": "5s"}
"""One answer per question (PING and INFO of the service), for so long; streams of answers have their own grant."""


class User(Struct, frozen=True):
    """A NATS user: name, password, and the subjects it may publish and subscribe.

    `replies`: it may also answer what it was asked, once and soon, wherever the asker waits.
    """

    name: str
    password: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    replies: bool = False


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
    publish = [f"{app}.evt.{name}{tail}" for name in plan.emits for tail in _tails(seat)]
    publish += [f"{app}.obs.{name}.{seat.instance}" for name in plan.observes]
    shared = {name for other in topology.actors.values() for name in other.asks}  # asked without a key
    publish += [f"{app}.ask.{name}" if name in shared else f"{app}.ask.{name}.*" for name in plan.sends]
    publish += _inboxes_of_askers(topology, plan, seat, seats)
    publish.append(f"{app}.dead.{seat.actor}.{seat.instance}")
    if plan.folds:
        publish += _reading(evt_stream(app))
    if plan.follows:
        publish += [f"$JS.API.{one.format(trace_stream(app))}" for one in ("STREAM.INFO.{}", "DIRECT.GET.{}")]
    if seat.actor == "selector":
        bucket = claims_bucket(app)
        publish += [f"{app}.trace.selection.made.{seat.instance}", f"$KV.{bucket}.>"]
        publish.append(f"$JS.API.DIRECT.GET.KV_{bucket}.>")
        publish.append(f"{inbox_of(seat.instance)}.*.traced.>")  # where the server reports on a caller's absence
    subscribe = [f"{inbox_of(seat.instance)}.>"]
    subscribe += [f"{app}.ask.{s}" for name in plan.asks for s in expand(name, seat)]
    subscribe += [f"{app}.obs.{name}.*" for name in plan.hears]
    subscribe += [f"{app}.live.{name}{tail}" for name in plan.folds if name not in OUTCOMES for tail in ("", ".*")]
    if plan.asks:
        # Spelled out: the server takes an allowed `$SRV.*` for `$SRV.>` too.
        tails = ("", f".{seat.actor}", f".{seat.actor}.*")
        subscribe += [f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in tails]
    replies = bool(plan.asks) and "_INBOX.>" not in publish
    return User(seat.instance, password, tuple(publish), tuple(subscribe), replies)


def _reading(stream: str) -> list[str]:
    """The API calls of an ordered reader and of fetching one message, and its flow control."""
    calls = ("STREAM.INFO.{}", "CONSUMER.CREATE.{}.*", "CONSUMER.DELETE.{}.*", "DIRECT.GET.{}", "DIRECT.GET.{}.>")
    return [*(f"$JS.API.{one.format(stream)}" for one in calls), f"$JS.FC.{stream}.>"]


def _tails(seat: Seat) -> list[str]:
    """The keys under which a process may state facts: a runner its own models alone."""
    return [f".{s}" for s in seat.slugs] or ["", ".*"]


def _inboxes_of_askers(topology: Topology, plan: ActorPlan, seat: Seat, seats: list[Seat]) -> list[str]:
    """Where answers may stream to: guests' inboxes if guests may ask us, and the inboxes of other actors that send to
    us (what instances of one actor send each other are orders without an answer)."""
    found = ["_INBOX.>"] if {name.split(".")[0] for name in plan.asks} & set(GUEST_FAMILIES) else []
    asked = {".".join(name.split(".")[:2]) for name in plan.asks}
    askers = [s for s in seats if s.actor != seat.actor and asked & set(topology.actors[s.actor].sends)]
    return found + [f"{inbox_of(s.instance)}.>" for s in askers]


def _guest(topology: Topology) -> User:
    app, stream = topology.app, evt_stream(topology.app)
    publish = [f"{app}.ask.{family}.>" for family in GUEST_FAMILIES]
    # Reading the log (it holds no content) without consumers: a consumer could deliver where a guest may not publish.
    publish += [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>"]
    publish.append("$SRV.>")
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
