"""Which budgets bind an amount, whether there is room in them, and how they stand. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from understudy.actors.cost_ledger.book import Account
from understudy.actors.cost_ledger.windows import Kind, Place
from understudy.messages.cost import BudgetState, WarnedOf
from understudy.messages.money import pusd_of, usd_of
from understudy.messages.topology import Budget, Topology

NEARLY = 80
"""Percent of a budget at which it is warned for the first time."""
Percent = Literal[80, 100]


class Bound(NamedTuple):
    """One budget for one key of its scope."""

    name: str
    budget: Budget
    place: Place
    until_ms: int
    limit_pusd: int


def by_kind(topology: Topology) -> dict[Kind, list[tuple[Budget, int]]]:
    """The budgets that look at each kind of account, with their limits in pico-USD."""
    found: dict[Kind, list[tuple[Budget, int]]] = {}
    for budget in topology.budgets.values():
        found.setdefault((budget.scope, budget.window), []).append((budget, pusd_of(budget.limit_usd)))
    return found


def binding(topology: Topology, place: Place, until_ms: int) -> list[Bound]:
    """The budgets that look at an account."""
    return [
        Bound(name, budget, place, until_ms, pusd_of(budget.limit_usd))
        for name, budget in topology.budgets.items()
        if (budget.scope, budget.window) == (place.scope, place.window)
        and (not budget.match or place.key in budget.match)
    ]


def all_binding(topology: Topology, found: dict[Place, int]) -> list[Bound]:
    """The budgets that look at any of these accounts, in the topology's order."""
    order = {name: n for n, name in enumerate(topology.budgets)}
    bounds = [one for place, until_ms in found.items() for one in binding(topology, place, until_ms)]
    return sorted(bounds, key=lambda one: order[one.name])


def first_full(bounds: Iterable[tuple[Bound, int]], pusd: int) -> Bound | None:
    """The first budget without room for so much more; each comes with what is spent and reserved in it."""
    return next((bound for bound, used in bounds if used + pusd > bound.limit_pusd), None)


def state_of(bound: Bound, account: Account, on_its_way_pusd: int, fits: bool = True) -> BudgetState:
    """How a budget stands. `on_its_way_pusd`: reserved, but not in the fold yet."""
    return BudgetState(
        budget=bound.name,
        scope=bound.budget.scope,
        window=bound.budget.window,
        key=bound.place.key,
        limit_usd=bound.budget.limit_usd,
        spent_usd=usd_of(account.spent_pusd),
        reserved_usd=usd_of(account.reserved_pusd + on_its_way_pusd),
        until_ms=bound.until_ms or None,
        fits=fits,
    )


def is_nearly(pusd: int, limit_pusd: int) -> bool:
    """Is so much of a budget most of it?"""
    return pusd * 100 >= limit_pusd * NEARLY


def percent_of(bound: Bound, spent_pusd: int) -> Percent | None:
    """What is to be warned of. Reservations do not count: they are three to four times what comes to be spent."""
    if spent_pusd >= bound.limit_pusd:
        return 100
    return 80 if is_nearly(spent_pusd, bound.limit_pusd) else None


def warning_id(bound: Bound, percent: Percent, of: WarnedOf) -> str:
    """The one id of a warning: budget, percent, what of, and a digest of whose window and which limit."""
    about = hashlib.sha256(f"{bound.place.name()} {bound.limit_pusd}".encode()).hexdigest()[:16]
    return f"warned.{bound.name}.{percent}.{of}.{about}"
