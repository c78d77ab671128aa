"""Say what may be spent, before it is spent: reservations, budgets, quotas of providers. Pure.

One process decides about every scope, so no number of selectors overspends; the supervisor starts the next one only
when the last has ended. A reservation counts from its decision on and is granted once the log has it: whoever comes
after a crash knows of it. The log keeps one per run and attempt, however often it is asked for.
"""

from __future__ import annotations

import heapq

from understudy.actors.cost_ledger import announce, budgets, reconcile
from understudy.actors.cost_ledger.book import Account, Book, key_of
from understudy.actors.cost_ledger.budgets import Bound
from understudy.actors.cost_ledger.state import Pending, Settings, State
from understudy.actors.cost_ledger.windows import Place, kind_of, place_of, places
from understudy.messages.base import Ask, Message
from understudy.messages.brief import ChargesBrief
from understudy.messages.catalogue_events import ModelPriced, ModelRegistered, ModelRetired, ModelReturned
from understudy.messages.cost import (
    Budgets,
    BudgetState,
    BudgetWarned,
    CostExpired,
    CostReconciled,
    CostReserved,
    ListBudgets,
    ProviderExhausted,
    ProviderRestored,
    Quote,
    Quoted,
    Reserve,
    Reserved,
    ReserveRefused,
)
from understudy.messages.events import AttemptEnded, TopologyApplied
from understudy.messages.money import pusd_of
from understudy.messages.records import Record
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

ASKS: dict[str, type[Ask | Message]] = {
    "ledger.reserve": Reserve,
    "ledger.quote": Quote,
    "ledger.budgets": ListBudgets,
}
HEARS: tuple[type[Message], ...] = ()
FOLDS = (
    TopologyApplied,
    AttemptEnded,
    ChargesBrief,
    CostReserved,
    CostExpired,
    BudgetWarned,
    ProviderExhausted,
    ProviderRestored,
    ModelRegistered,
    ModelPriced,
    ModelRetired,
    ModelReturned,
    CostReconciled,
)
EMITS = (CostReserved, CostExpired, CostReconciled, BudgetWarned, ProviderExhausted, ProviderRestored)
SENDS = ("runner.record",)
Fold = Book

SWEEP = "sweep"
LISTED = 1_000
"""So many budgets are listed: each user has one, and all must fit into one message."""


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Asked(message=Reserve() as ask):
            return _reserve(state, message, ask, settings)
        case Asked(message=Quote() as ask):
            return [Send(message.reply, _quote(state, ask, int(message.at_ms)))] if message.reply else []
        case Asked(message=ListBudgets()):
            return [Send(message.reply, _list(state, int(message.at_ms)))] if message.reply else []
        case Happened():
            return _happened(state, message)
        case Heard(message=Record() as record):
            return reconcile.hear(state, record, message.at_ms)
        case Unheard():
            reconcile.unheard(state, message.subject)
            return []
        case Booted():
            state.app, state.inbox = message.app, message.inbox
            return []
        case Stored() | StoreFailed():
            return _stored(state, message)
        case CaughtUp():
            state.live = True
            return _sweep(state, message.at_ms, 0, settings) + announce.warnings(
                state, state.book.accounts, message.at_ms
            )
        case Woke():
            return _sweep(state, message.at_ms, message.generation + 1, settings)
        case _:
            return []


def fold_state(state: State) -> Book:
    """The part of the state that is folded from the log."""
    return state.book


def restore(state: State, book: Book) -> None:
    """Go on from an earlier fold."""
    state.book = book


# --- reserving -------------------------------------------------------------------------------------------------------


def _reserve(state: State, asked: Asked, ask: Reserve, settings: Settings) -> list[Effect]:
    """Grant, refuse, or repeat what was said about this attempt before."""
    key = key_of(ask.run_id, ask.attempt)
    if not asked.reply:
        return []
    if (pending := state.pending.get(_id(key))) is not None:
        pending.replies[asked.reply] = None
        return _answer(pending, granted=True) if pending.confirmed else []
    if key in state.book.open:
        return [Send(asked.reply, Reserved(run_id=ask.run_id, attempt=ask.attempt))]
    refused = ReserveRefused(run_id=ask.run_id, attempt=ask.attempt, reason="settled")
    if key in state.book.late or key in state.book.closed:
        return [Send(asked.reply, refused)]
    declared = state.book.known.declared(ask.model)
    if declared is None:
        unknown = ReserveRefused(run_id=ask.run_id, attempt=ask.attempt, reason="unknown_model")
        return [Send(asked.reply, unknown)]
    now = int(asked.at_ms)
    event = CostReserved(
        at_ms=now,
        run_id=ask.run_id,
        attempt=ask.attempt,
        model=ask.model,
        provider=declared.provider,
        most_usd=ask.most_usd,
        until_ms=now + int(ask.remaining_ms) + settings.margin_ms,
        user=ask.user,
        conversation=ask.conversation,
    )
    return _decide(state, event, asked.reply, settings)


def _id(key: str) -> str:
    return f"reserved.{key}"


def _decide(state: State, event: CostReserved, reply: str, settings: Settings) -> list[Effect]:
    """Is there room in every budget? What is granted here is said when the log has it."""
    pusd, found = pusd_of(event.most_usd), _places(event)
    full = budgets.first_full(_with_use(state, found), pusd)
    if full is not None:
        refused = ReserveRefused(
            run_id=event.run_id,
            attempt=event.attempt,
            reason="budget_exhausted",
            budget=_state(state, full, fits=False),
        )
        return [Send(reply, refused), *announce.refused(state, full, event.at_ms)]
    msg_id, names = _id(key_of(event.run_id, event.attempt)), [place.name() for place in found]
    state.put(msg_id, Pending(event, pusd, names, {reply: None}))
    return [Store(event, msg_id, give_up_ms=settings.store_ms)]


def _places(event: CostReserved) -> dict[Place, int]:
    return places(event.model, event.provider, event.user, event.conversation, event.at_ms)


def _with_use(state: State, found: dict[Place, int]) -> list[tuple[Bound, int]]:
    topology = state.book.topology
    bounds = budgets.all_binding(topology, found) if topology is not None else []
    return [(one, state.used_pusd(one.place.name())) for one in bounds]


def _state(state: State, bound: Bound, *, fits: bool = True) -> BudgetState:
    name = bound.place.name()
    account = state.book.accounts.get(name) or Account(bound.until_ms)
    return budgets.state_of(bound, account, state.on_its_way.get(name, 0), fits)


def _stored(state: State, answer: Stored | StoreFailed) -> list[Effect]:
    """A reservation is granted when log and disk have it; if the log had it before, when the fold has it too."""
    state.telling.discard(answer.msg_id)
    pending = state.pending.get(answer.msg_id)
    if pending is None:
        return []
    if isinstance(answer, StoreFailed):
        if answer.code != "bus_down":  # refused: the log will never have it; else it is still on its way, and counts
            state.fold(answer.msg_id)
            del state.pending[answer.msg_id]
        return _answer(pending, granted=False)
    pending.stored, pending.confirmed = True, answer.synced
    if pending.folded:  # both have spoken: from now on the fold answers who asks again
        del state.pending[answer.msg_id]
    elif answer.synced and answer.duplicate:
        return []
    return _answer(pending, granted=answer.synced)


def _read_back(state: State, msg_id: str) -> list[Effect]:
    """The fold has a reservation. Others may hear a fact a moment before the disk has it; the grant waits for that."""
    pending = state.fold(msg_id)
    if pending is None or not pending.stored:
        return []
    del state.pending[msg_id]
    return _answer(pending, granted=pending.confirmed)


def _answer(pending: Pending, *, granted: bool) -> list[Effect]:
    """To everybody who asked. Without the log's word nothing may be spent; what was reserved counts all the same."""
    replies, pending.replies = pending.replies, {}
    run_id, attempt = pending.event.run_id, pending.event.attempt
    said: Message = Reserved(run_id=run_id, attempt=attempt)
    if not granted:
        said = ReserveRefused(run_id=run_id, attempt=attempt, reason="ledger_down")
    return [Send(reply, said) for reply in replies]


# --- folding ---------------------------------------------------------------------------------------------------------


def _happened(state: State, happened: Happened) -> list[Effect]:
    event, now = happened.event, happened.at_ms
    if happened.seq <= state.book.seq:
        return []
    changed = state.book.apply(happened.seq, event)
    out: list[Effect] = []
    if isinstance(event, CostReserved):
        out += _read_back(state, event.id)
    if not state.live:
        return out
    if isinstance(event, AttemptEnded):
        out += announce.exhausted(state, now)
    return out + announce.warnings(state, changed, now)


def _sweep(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """Book what nobody tells the end of; say what has to be said by the clock."""
    out: list[Effect] = [Wake(now + settings.sweep_ms, SWEEP, generation)]
    out += announce.expired(state, now)
    out += announce.exhausted(state, now)
    out += reconcile.look(state, now, settings)
    return out + announce.restored(state, now)


# --- questions -------------------------------------------------------------------------------------------------------


def _quote(state: State, ask: Quote, now: int) -> Quoted:
    found: dict[str, tuple[BudgetState, ...]] = {}
    for model, usd in ask.most_usd.items():
        declared = state.book.known.declared(model)
        if declared is None:
            continue
        where, pusd = places(model, declared.provider, ask.user, ask.conversation, now), pusd_of(usd)
        bounds = _with_use(state, where)
        found[model] = tuple(_state(state, one, fits=used + pusd <= one.limit_pusd) for one, used in bounds)
    return Quoted(run_id=ask.run_id, budgets=found)


def _list(state: State, now: int) -> Budgets:
    """Each budget with every key that has an account in a window that is not over: where there are many, those that
    were used most."""
    topology, found = state.book.topology, list[tuple[int, str]]()
    if topology is None:
        return Budgets(as_of_seq=state.book.seq, budgets=())
    kinds = budgets.by_kind(topology)
    for name, account in state.book.accounts.items():
        kind, key = kind_of(name)
        if kind in kinds and not 0 < account.until_ms <= now:
            used = account.spent_pusd + account.reserved_pusd + state.on_its_way.get(name, 0)
            found += [(used, name) for budget, _ in kinds[kind] if not budget.match or key in budget.match]
    names = dict.fromkeys(name for _, name in (found if len(found) <= LISTED else heapq.nlargest(LISTED, found)))
    open_now = {place: until for place, until in places("", "", "", "", now).items() if place.scope == "all"}
    open_now |= {place_of(name): state.book.accounts[name].until_ms for name in names}
    states = tuple(_state(state, one) for one in budgets.all_binding(topology, open_now)[:LISTED])
    return Budgets(as_of_seq=state.book.seq, budgets=states, left_off=max(0, len(found) - len(states)))
