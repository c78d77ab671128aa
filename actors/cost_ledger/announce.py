"""What the ledger says by itself: budgets that fill up, reservations nobody settles, quotas of providers. Pure.

Each has an id of its own, so the log keeps one of it, however often it is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from understudy.actors.cost_ledger import budgets
from understudy.actors.cost_ledger.book import Account
from understudy.actors.cost_ledger.budgets import Bound
from understudy.actors.cost_ledger.state import State
from understudy.actors.cost_ledger.windows import place_of
from understudy.messages.cost import BudgetWarned, CostExpired, ProviderExhausted, ProviderRestored
from understudy.messages.events import Event
from understudy.messages.money import usd_of
from understudy.messages.step import Effect, Store


def _once(state: State, event: Event, msg_id: str) -> list[Effect]:
    """Say it, unless it is being said."""
    if msg_id in state.telling:
        return []
    state.telling.add(msg_id)
    return [Store(event, msg_id)]


def warnings(state: State, changed: Iterable[str], now: float) -> list[Effect]:
    """Of these accounts' budgets, those that have reached a mark for the first time in their window."""
    topology, out = state.book.topology, list[Effect]()
    if topology is None or not topology.budgets:
        return out
    for name in dict.fromkeys(changed):
        account = state.book.accounts[name]
        for bound in budgets.binding(topology, place_of(name), account.until_ms):
            out += warning(state, bound, int(now))
    return out


def warning(state: State, bound: Bound, now: int, *, refused: bool = False) -> list[Effect]:
    """One budget, if there is something to say about it."""
    name = bound.place.name()
    account = state.book.accounts.get(name) or Account(bound.until_ms)
    over = 0 < bound.until_ms <= now
    percent = budgets.percent_of(bound, state.used_pusd(name), refused=refused)
    if percent is None or over:
        return []
    msg_id = budgets.warning_id(bound, percent)
    if msg_id in state.book.warned:
        return []
    said = budgets.state_of(bound, account, state.on_its_way.get(name, 0))
    return _once(state, BudgetWarned(at_ms=now, percent=percent, state=said), msg_id)


def expired(state: State, now: float) -> list[Effect]:
    """Reservations whose run should have ended long ago."""
    out: list[Effect] = []
    for key, held in state.book.open.items():
        if held.until_ms <= now:
            event = CostExpired(
                at_ms=int(now), run_id=held.run_id, attempt=held.attempt, model=held.model, cost_usd=usd_of(held.pusd)
            )
            out += _once(state, event, f"expired.{key}")
    return out


def exhausted(state: State, now: float) -> list[Effect]:
    """Quotas that runs have found used up, and that nobody was told of."""
    out: list[Effect] = []
    for name, until_ms in state.book.used_up.items():
        if until_ms > max(now, state.book.exhausted.get(name, 0)):
            provider, quota = name.split(" ")
            event = ProviderExhausted(
                at_ms=int(now), provider=provider, quota=cast(Literal["free"], quota), until_ms=until_ms
            )
            out += _once(state, event, f"exhausted.{provider}.{quota}.{until_ms}")
    return out


def restored(state: State, now: float) -> list[Effect]:
    """Quotas whose time has come."""
    out: list[Effect] = []
    for name, until_ms in state.book.exhausted.items():
        if until_ms <= now:
            provider, quota = name.split(" ")
            event = ProviderRestored(at_ms=int(now), provider=provider, quota=cast(Literal["free"], quota))
            out += _once(state, event, f"restored.{provider}.{quota}.{until_ms}")
    return out
