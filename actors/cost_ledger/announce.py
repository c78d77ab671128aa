"""What the ledger says by itself: budgets that fill up, reservations nobody settles, quotas of providers. Pure.

Each has an id of its own, so the log keeps one of it, however often it is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from understudy.actors.cost_ledger import budgets
from understudy.actors.cost_ledger.book import Account
from understudy.actors.cost_ledger.budgets import Bound, Percent
from understudy.actors.cost_ledger.state import State
from understudy.actors.cost_ledger.windows import kind_of, place_of
from understudy.messages.cost import BudgetWarned, CostExpired, ProviderExhausted, ProviderRestored, WarnedOf
from understudy.messages.events import Event
from understudy.messages.money import usd_of
from understudy.messages.step import Effect, Store

LATER_MS = 5_000
"""Each refusal of a provider may name another moment of the same reset; one that is later by no more is not told."""


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
    least = {kind: min(limit for _, limit in found) for kind, found in budgets.by_kind(topology).items()}
    for name in dict.fromkeys(changed):
        account, limit_pusd = state.book.accounts[name], least.get(kind_of(name)[0])
        if limit_pusd is None or not budgets.is_nearly(account.spent_pusd, limit_pusd):
            continue
        for bound in budgets.binding(topology, place_of(name), account.until_ms):
            percent = budgets.percent_of(bound, account.spent_pusd)
            if percent is not None:
                out += _warn(state, bound, int(now), percent, "spent")
    return out


def refused(state: State, bound: Bound, now: int) -> list[Effect]:
    """A budget had no room. Where most of it is spent or reserved, nothing more fits for now; else it was asked for
    much."""
    name = bound.place.name()
    account = state.book.accounts.get(name)
    if account is not None and account.spent_pusd >= bound.limit_pusd:
        return _warn(state, bound, now, 100, "spent")
    return (
        _warn(state, bound, now, 100, "refused") if budgets.is_nearly(state.used_pusd(name), bound.limit_pusd) else []
    )


def _warn(state: State, bound: Bound, now: int, percent: Percent, of: WarnedOf) -> list[Effect]:
    """Unless the log has it, or the window is over."""
    msg_id = budgets.warning_id(bound, percent, of)
    if msg_id in state.book.warned or 0 < bound.until_ms <= now:
        return []
    name = bound.place.name()
    account = state.book.accounts.get(name) or Account(bound.until_ms)
    said = budgets.state_of(bound, account, state.on_its_way.get(name, 0))
    return _once(state, BudgetWarned(at_ms=now, percent=percent, of=of, state=said), msg_id)


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
        told_ms = state.book.exhausted.get(name, 0)
        if until_ms > now and (not told_ms or until_ms > told_ms + LATER_MS):
            provider, quota = name.split(" ")
            if any(msg_id.startswith(f"exhausted.{provider}.{quota}.") for msg_id in state.telling):
                continue
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
