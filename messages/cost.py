"""What may be spent, what is reserved and what was: the ledger's questions, answers and facts.

The selector asks `<app>.ask.ledger.reserve` before it runs an attempt at a priced model, with its own inbox as reply;
`Reserved` comes once `CostReserved` is stored. What an attempt cost stands in `AttemptEnded` and `RequestEnded`.
"""

from __future__ import annotations

from typing import Literal

from understudy.messages.base import Ask, Message, Part
from understudy.messages.events import Event
from understudy.messages.generate import Generate
from understudy.messages.money import Generation, UsdText
from understudy.messages.units import Count, ModelId, Word

Scope = Literal["all", "provider", "model", "user", "conversation"]
Window = Literal["day", "month", "conversation"]
WarnedOf = Literal["spent", "refused"]


class BudgetState(Part, frozen=True, kw_only=True):
    """One budget for one key of its scope, now. `until_ms`: the window's end (Unix milliseconds); None: never."""

    budget: Word
    scope: Scope
    window: Window
    key: str = ""  # provider, model, or the keyed hash of a user or conversation
    limit_usd: UsdText
    spent_usd: UsdText = "0"
    reserved_usd: UsdText = "0"
    until_ms: int | None = None
    fits: bool = True  # where it was asked about an amount: there is room for it


class Reserve(Message, tag="ledger.reserve.v1", frozen=True, kw_only=True):
    """May this attempt cost up to `most_usd`? Asked again for the same run and attempt, it gets the same answer."""

    run_id: str
    attempt: Count
    model: ModelId
    most_usd: UsdText
    remaining_ms: float
    user: str = ""  # keyed hash
    conversation: str = ""  # keyed hash


class Reserved(Message, tag="ledger.reserved.v1", frozen=True, kw_only=True):
    """It may; the log has it."""

    run_id: str
    attempt: Count


class ReserveRefused(Message, tag="ledger.refused.v1", frozen=True, kw_only=True):
    """It may not. `budget`: the one that has no room. `settled`: that attempt is over already."""

    run_id: str
    attempt: Count
    reason: Literal["budget_exhausted", "ledger_down", "settled", "unknown_model"]
    budget: BudgetState | None = None


class Quote(Message, tag="ledger.quote.v1", frozen=True, kw_only=True):
    """Which budgets bind a request that can cost so much with each model? Nothing is reserved."""

    run_id: str
    most_usd: dict[ModelId, UsdText]
    user: str = ""
    conversation: str = ""


class Quoted(Message, tag="ledger.quoted.v1", frozen=True, kw_only=True):
    """The answer to `Quote`, per model."""

    run_id: str
    budgets: dict[ModelId, tuple[BudgetState, ...]]


class ListBudgets(Ask, tag="ledger.budgets.v1", frozen=True, kw_only=True):
    """Every budget with what was spent and is reserved in its present window."""


class Budgets(Message, tag="ledger.listed.v1", frozen=True, kw_only=True):
    """The answer to `ListBudgets`, at position `as_of_seq` of the log. `left_off`: so many others were used less."""

    as_of_seq: Count
    budgets: tuple[BudgetState, ...]
    left_off: Count = 0


class Estimate(Generate, tag="model.estimate.v1", frozen=True, kw_only=True):
    """What would this request cost at most, with each candidate? Nothing is run or reserved."""


class Estimated(Part, frozen=True, kw_only=True):
    """One candidate. `most_usd`: the bound that would be reserved. `budgets`: those that bind it."""

    model: ModelId
    most_usd: UsdText
    price_known: bool = True
    budgets: tuple[BudgetState, ...] = ()


class Estimates(Message, tag="model.estimated.v1", frozen=True, kw_only=True):
    """The answer to `Estimate`, in the order in which the candidates would be tried.

    `ledger`: `not_asked` where nothing has a price, `down` where nobody could say how the budgets stand.
    """

    task: str
    candidates: tuple[Estimated, ...]
    rejected: dict[str, Count]
    ledger: Literal["asked", "not_asked", "down"]


# --- facts -----------------------------------------------------------------------------------------------------------


class CostReserved(Event, tag="cost.reserved.v1", frozen=True, kw_only=True):
    """An attempt may cost up to `most_usd`. Without an end by `until_ms` it counts as having cost all of it."""

    run_id: str
    attempt: Count
    model: ModelId
    provider: Word
    most_usd: UsdText
    until_ms: int
    user: str = ""  # keyed hash
    conversation: str = ""  # keyed hash


class CostExpired(Event, tag="cost.expired.v1", frozen=True, kw_only=True):
    """Nobody has told what this attempt cost: it is booked with all that was reserved, until its end says better."""

    run_id: str
    attempt: Count
    model: ModelId
    cost_usd: UsdText


class CostReconciled(Event, tag="cost.reconciled.v1", frozen=True, kw_only=True):
    """The provider's own record of an attempt says `cost_usd`, where we had booked `was_usd`."""

    run_id: str
    attempt: Count
    model: ModelId
    cost_usd: UsdText
    was_usd: UsdText
    generation: Generation


class BudgetWarned(Event, tag="budget.warned.v1", frozen=True, kw_only=True):
    """A budget is used up to `percent`, once per window, key and limit.

    `of`: so much of it is `spent`; or an attempt was `refused` (percent 100) while most of it was spent or reserved:
    nothing more fits, until something of what is reserved comes back.
    """

    percent: Literal[80, 100]
    of: WarnedOf = "spent"
    state: BudgetState


class ProviderExhausted(Event, tag="provider.exhausted.v1", frozen=True, kw_only=True):
    """A quota of the provider's account is used up: no model that draws on it is tried until `ProviderRestored`."""

    provider: Word
    quota: Literal["free"]
    until_ms: int


class ProviderRestored(Event, tag="provider.restored.v1", frozen=True, kw_only=True):
    """The time has come at which the provider's quota begins anew."""

    provider: Word
    quota: Literal["free"]
