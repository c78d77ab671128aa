"""Keep the catalogue: read providers' lists again and again, and state what has changed in them. Pure.

    due ── runner.list ──> reading ── whole list ──> compared with the fold ── only what differs ──> the log
                              └── no list, or not whole: what was known stands, one alarm

It compares with what it has folded from the log, and nothing is compared while a fact of its own is on its way there;
so whatever it stated and lost is found missing again, and two managers state the same under the same ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from understudy.actors.model_manager import compare
from understudy.actors.model_manager.today import day_of
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import RefreshCatalogue, Refreshing
from understudy.messages.catalogue_events import (
    CATALOGUE_EVENTS,
    CatalogueEvent,
    CatalogueRefused,
    ModelOffline,
    ModelRetired,
)
from understudy.messages.events import Event, TopologyApplied
from understudy.messages.generate import Failed
from understudy.messages.known import Known
from understudy.messages.listing import ListEnded, ListFailed, ListFault, ListOrder, ListPart, Row
from understudy.messages.pulls import PULLING_KINDS, PullModel, PullOrder
from understudy.messages.slugs import slug
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Effect,
    Happened,
    Heard,
    Input,
    Send,
    Store,
    Stored,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.topology import Provider, Topology

ASKS: dict[str, type[Ask | Message]] = {"catalogue.refresh": RefreshCatalogue, "catalogue.pull": PullModel}
HEARS: tuple[type[Message], ...] = ()
FOLDS: tuple[type[Event], ...] = (TopologyApplied, *CATALOGUE_EVENTS)
EMITS: tuple[type[Event], ...] = CATALOGUE_EVENTS
SENDS = ("runner.list", "runner.pull")

SWEEP = "sweep"
OLLAMA_S, OTHERS_S = 5, 3_600
"""How often a list is read where the topology does not say."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`timeout_ms`: so long a whole list is waited for. `retry_ms`: the pause after no runner was there.

    `backoff_ms`: the first pause after a list that was none, or after facts that the log did not take; it doubles with
    each in a row. `again_ms`: after a list that has lost most of its models, and after a 404 for one that it has.
    `alarm_ms`: alarms about one provider are no closer together.
    """

    sweep_ms: int = 250
    timeout_ms: int = 60_000
    retry_ms: int = 1_000
    backoff_ms: int = 5_000
    again_ms: int = 60_000
    alarm_ms: int = 600_000


@dataclass(slots=True)
class History:
    """The fold: the catalogue at position `seq` of the log."""

    seq: int = 0
    known: Known = field(default_factory=Known)


Fold = History


@dataclass(slots=True)
class Reading:
    """A list on its way."""

    list_id: str
    asked_seq: int
    until_ms: float
    next_ms: float = math.inf  # the next one begins at the latest then
    parts: list[tuple[Row, ...]] = field(default_factory=list[tuple[Row, ...]])


@dataclass(slots=True)
class State:
    """`live` is False while the log is folded: what happened then was stated then."""

    app: str = ""
    inbox: str = ""
    boot: str = ""  # no list of an earlier life has the id of one of this
    live: bool = False
    asked: int = 0
    history: History = field(default_factory=History)
    readings: dict[str, Reading] = field(default_factory=dict[str, Reading])  # by provider
    due_ms: dict[str, float] = field(default_factory=dict[str, float])  # by provider; absent: now
    failed: dict[str, int] = field(default_factory=dict[str, int])  # by provider: lists in a row that were none
    doubted: set[str] = field(default_factory=set[str])  # providers whose last list lacked most of what is known
    alarmed_ms: dict[str, float] = field(default_factory=dict[str, float])  # by provider
    judged: dict[str, compare.Before] = field(default_factory=dict[str, compare.Before])  # by provider
    telling: dict[str, str] = field(default_factory=dict[str, str])  # message ids on their way to the log -> provider
    told_seq: int = 0  # the last position that the log gave one of ours
    reconcile: bool = True  # the topology has changed, or a fact was lost
    lost: int = 0  # how often in a row the log took nothing
    rest_until_ms: float = 0.0  # nothing is read or stated before
    today: str = ""

    def settled(self) -> bool:
        """Does the fold hold all that we have stated?"""
        return not self.telling and self.history.seq >= self.told_seq


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Happened():
            _happened(state, message, settings)
            return []
        case Asked(message=RefreshCatalogue() as order):
            return _refresh(state, order, message.reply)
        case Asked(message=PullModel() as order):
            return _pull(state, order, message.reply)
        case Heard(message=ListPart() | ListEnded() | ListFailed() as said):
            return _heard(state, said, message.at_ms, settings)
        case Unheard():
            for name in [n for n, r in state.readings.items() if message.subject.endswith(f".{r.list_id}")]:
                _again(state, name, message.at_ms + settings.retry_ms)
            return []
        case Woke():
            return _sweep(state, message, settings)
        case Stored():
            state.telling.pop(message.msg_id, None)
            state.told_seq, state.lost = max(state.told_seq, message.seq), 0
            return []
        case StoreFailed():
            _lost(state, message, settings)
            return []
        case CaughtUp():
            state.live = True
            return [Wake(message.at_ms, SWEEP, 0)]
        case Booted():
            state.app, state.inbox, state.boot = message.app, message.inbox, message.id
            return []
        case _:
            return []


def fold_state(state: State) -> History:
    """The part of the state that is folded from the log."""
    return state.history


def restore(state: State, history: History) -> None:
    """Go on from an earlier fold."""
    state.history = history


def _lost(state: State, failed: StoreFailed, settings: Settings) -> None:
    """What was stated is not in the log: its provider's list is read again, but not as fast as the log says no."""
    provider = state.telling.pop(failed.msg_id, "")
    state.reconcile = True
    if failed.at_ms >= state.rest_until_ms:  # else it is another part of the same list
        state.rest_until_ms = failed.at_ms + settings.backoff_ms * 2 ** min(state.lost, 4)
        state.lost += 1
    if provider:
        state.due_ms[provider] = state.rest_until_ms
        state.alarmed_ms.pop(provider, None)  # it may have been an alarm


def _happened(state: State, happened: Happened, settings: Settings) -> None:
    history, event = state.history, happened.event
    if happened.seq <= history.seq:
        return
    history.seq = happened.seq
    if isinstance(event, TopologyApplied):
        history.known.topology, state.reconcile = event.body, True
        for about_lists in (
            *(state.readings, state.due_ms, state.failed, state.doubted, state.alarmed_ms, state.judged),
        ):
            about_lists.clear()  # addresses and keys may be others now
    elif isinstance(event, CatalogueEvent):
        history.known.apply(happened.seq, event)
        if isinstance(event, ModelRetired) and event.reason == "not_found":
            _look_soon(state, event, happened.at_ms, settings)


def _look_soon(state: State, event: ModelRetired, now: float, settings: Settings) -> None:
    """A provider has answered 404 for what its list has, perhaps by mistake: its list is read soon. Each further time
    it is trusted less."""
    known, name = state.history.known.entries, event.provider
    times = max((known[model].retirements for model in event.models if model in known), default=1)
    soon_ms = now + settings.again_ms * 2 ** min(max(0, times - 1), 10)
    if name in state.readings:
        state.readings[name].next_ms = soon_ms
    elif name in state.due_ms:
        state.due_ms[name] = min(state.due_ms[name], soon_ms)


def _sweep(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    """Give up readings that take too long, state what the topology or the day has changed, read lists that are due."""
    now, known = woke.at_ms, state.history.known
    out: list[Effect] = [Wake(now + settings.sweep_ms, SWEEP, woke.generation + 1)]
    for name in [n for n, r in state.readings.items() if now >= r.until_ms]:
        late = ListFailed(
            list_id=state.readings[name].list_id, code="timeout", text="its runner did not answer in time"
        )
        out += _heard(state, late, now, settings)
    if known.topology is None or now < state.rest_until_ms or not state.settled():
        return out
    today = day_of(now)
    if state.reconcile or today != state.today:
        state.reconcile, state.today = False, today
        facts = [*compare.reconciled(known, known.topology, int(now)), *compare.expired(known, today, int(now))]
        if facts:
            return out + _state(state, facts)
    for name, provider in known.topology.providers.items():
        if provider.catalogue is not None and name not in state.readings and now >= state.due_ms.get(name, 0.0):
            out.append(_read(state, name, now, settings))
    return out


def _refresh(state: State, order: RefreshCatalogue, reply: str) -> list[Effect]:
    """All that are due now are read with the next sweep; one that is being read is read again."""
    topology = state.history.known.topology
    listed = [n for n, p in topology.providers.items() if p.catalogue is not None] if topology is not None else []
    if order.provider is not None and order.provider not in listed:
        text = f"No provider {order.provider!r} with a catalogue; known are: {', '.join(listed)}."
        return [Send(reply, Failed(code="invalid", text=text, path="$.provider"))] if reply else []
    wanted = [n for n in listed if order.provider in (None, n)]
    for name in wanted:
        _again(state, name, 0.0)
    return [Send(reply, Refreshing(providers=tuple(wanted)))] if reply else []


def _pull(state: State, order: PullModel, reply: str) -> list[Effect]:
    """Passed on to the provider's own process, which answers whoever asked, from its first word to its end."""
    if not reply:
        return []  # nobody could end it
    topology = state.history.known.topology
    found = topology.providers if topology is not None else {}
    provider = found.get(order.provider)
    able = ", ".join(n for n, p in found.items() if p.kind in PULLING_KINDS) or "none"
    kinds = ", ".join(PULLING_KINDS)
    if provider is None or provider.kind not in PULLING_KINDS:
        kind = "unknown" if provider is None else f"of the kind {provider.kind}"
        text = f"Only providers of the kind {kinds} pull models; {order.provider!r} is {kind}. Such are: {able}."
        return [Send(reply, Failed(code="invalid", text=text, path="$.provider"))]
    assert topology is not None
    if provider.catalogue is None and all(m.provider != order.provider for m in topology.models.values()):
        text = f"{order.provider!r} has no process: give it a `catalogue` in the topology, so that its models are seen."
        return [Send(reply, Failed(code="invalid", text=text, path="$.provider"))]
    subject = f"{state.app}.ask.runner.pull.{slug(order.provider)}"
    return [Send(subject, PullOrder(name=order.name, insecure=order.insecure), reply=reply)]


def _read(state: State, name: str, now: float, settings: Settings) -> Send:
    state.asked += 1
    list_id = f"{slug(name)}-{state.boot}-{state.asked}"
    state.readings[name] = Reading(list_id, state.history.seq, now + settings.timeout_ms)
    subject = f"{state.app}.ask.runner.list.{slug(name)}"
    return Send(subject, ListOrder(list_id=list_id), reply=f"{state.inbox}.run.{list_id}")


def _again(state: State, name: str, at_ms: float) -> None:
    """This reading is over; the next one begins then."""
    state.readings.pop(name, None)
    state.due_ms[name] = at_ms


def _heard(state: State, said: ListPart | ListEnded | ListFailed, now: float, settings: Settings) -> list[Effect]:
    name = next((n for n, r in state.readings.items() if r.list_id == said.list_id), None)
    topology = state.history.known.topology
    if name is None or topology is None:
        return []
    reading, provider = state.readings[name], topology.providers[name]
    match said:
        case ListPart():
            if said.n == len(reading.parts):
                reading.parts.append(said.rows)
            return []
        case ListEnded() if said.parts == len(reading.parts):
            state.failed.pop(name, None)
            _again(state, name, min(now + _every_ms(provider), reading.next_ms))
            return _whole(state, name, topology, reading, now, settings)
        case ListEnded() | ListFailed():
            times = state.failed[name] = state.failed.get(name, 0) + 1
            _again(state, name, now + min(settings.backoff_ms * 2 ** min(times - 1, 20), _every_ms(provider)))
            return _failed(state, name, provider, said, now, settings) if isinstance(said, ListFailed) else []


def _every_ms(provider: Provider) -> int:
    plan = provider.catalogue
    given = plan.refresh_s if plan is not None else None
    return 1000 * (given or (OLLAMA_S if provider.kind == "ollama" else OTHERS_S))


def _whole(
    state: State, name: str, topology: Topology, reading: Reading, now: float, settings: Settings
) -> list[Effect]:
    """Compare a list with the fold, unless that lacks something just now: then it is read again."""
    known = state.history.known
    if state.reconcile or not state.settled():
        state.due_ms[name] = now + settings.retry_ms
        return []
    rows = compare.completed(known, name, [row for part in reading.parts for row in part])
    clash = compare.clash(topology, name, rows, known)
    if clash is not None:
        return _refused(state, name, "clash", clash[1], clash[0], now, settings)
    provider = topology.providers[name]
    shrunk = provider.kind != "ollama" and compare.lacks_most(known, name, rows)
    if shrunk or not rows:
        state.due_ms[name] = now + min(settings.again_ms, _every_ms(provider))
    if shrunk and name not in state.doubted:
        state.doubted.add(name)
        text = "the list lacks more than half of the models that it had; it counts if it says so once more"
        return _refused(state, name, "shrunk", text, "", now, settings)
    state.doubted.discard(name)
    wanted = compare.listings(topology, name, rows, known, state.judged.setdefault(name, {}))
    facts = compare.list_read(known, name, rows, wanted, reading.asked_seq, day_of(now), int(now))
    return _state(state, facts)


def _failed(
    state: State, name: str, provider: Provider, said: ListFailed, now: float, settings: Settings
) -> list[Effect]:
    """A server on this machine that nobody reaches has no models to offer; of others only the list is missing."""
    state.doubted.discard(name)
    if not state.settled():
        state.due_ms[name] = now + settings.retry_ms
        return []
    mine = [(m, e) for m, e in state.history.known.entries.items() if e.provider == name and e.retired is None]
    if said.code == "unreachable" and provider.kind == "ollama" and mine:
        gone = tuple(m for m, e in mine if not e.offline)
        fact = ModelOffline(at_ms=int(now), provider=name, models=gone, reason=said.code)
        return _state(state, [fact]) if gone else []
    return _refused(state, name, said.code, said.text, said.path, now, settings)


def _refused(
    state: State, name: str, code: ListFault, text: str, path: str, now: float, settings: Settings
) -> list[Effect]:
    """One alarm per fault, however often the list is read with it, and not many where faults change."""
    before = state.history.known.refused.get(name)
    last_ms = state.alarmed_ms.get(name)
    if (before is not None and before.code == code) or (last_ms is not None and now - last_ms < settings.alarm_ms):
        return []
    state.alarmed_ms[name] = now
    return _state(state, [CatalogueRefused(at_ms=int(now), provider=name, code=code, text=text, path=path)])


def _state(state: State, facts: list[Event]) -> list[Effect]:
    """Into the log, each once: named after the last position that was about its provider."""
    out: list[Effect] = []
    for n, fact in enumerate(facts):
        provider: str = getattr(fact, "provider", "")
        msg_id = f"catalogue.{slug(provider)}.{state.history.known.marks.get(provider, 0)}.{n}"
        state.telling[msg_id] = provider
        out.append(Store(fact, msg_id, key=slug(provider)))
    return out
