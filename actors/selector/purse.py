"""A run's money: what is reserved for it, what its attempts did cost. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.messages.generate import ADVICE, FailCode, Usage
from understudy.messages.money import Charge, ChargedBy, Price, pusd_of, usd_of
from understudy.messages.prices import cost_pusd
from understudy.messages.run import NO_ROOM

NOT_RUN = NO_ROOM
"""No model saw the request; what was reserved serves the next try at the same model."""


@dataclass(slots=True)
class Hold:
    """What the ledger was asked to reserve. `attempt`: under which number."""

    attempt: int
    model: str
    pusd: int
    price: Price
    reason: str  # why this model's turn has come
    until_ms: float


@dataclass(slots=True)
class Purse:
    """A run's money: what it waits for, what pays for the attempt under way, and what attempts did cost."""

    waiting: Hold | None = None
    held: Hold | None = None
    generation: str | None = None  # the provider's id of the attempt under way, where it keeps records
    attempt: int = -1  # the number that the attempt under way is to have
    unused: dict[str, Hold] = field(default_factory=dict[str, Hold])  # by model: reserved, and no model has run yet
    last: Charge | None = None  # of the attempt that has just ended
    charges: list[Charge] = field(default_factory=list[Charge])
    rejected: dict[str, int] = field(default_factory=dict[str, int])  # models of the chain passed over, per reason
    words: str = ""  # which budget refused
    until_ms: int | None = None  # when its window ends

    def reject(self, word: str) -> None:
        """A model of the chain is passed over."""
        self.rejected[word] = self.rejected.get(word, 0) + 1

    def refused(self) -> FailCode | None:
        """The run's code, if nothing else than money kept it from an answer."""
        if "budget_exhausted" in self.rejected:
            return "budget_exhausted"
        if "ledger_down" in self.rejected:
            return "ledger_down"
        return "no_allowed_model" if self.rejected else None

    def notice(self) -> str:
        """In words, why a model that would have come first was passed over; '' where money was in nobody's way."""
        if "budget_exhausted" in self.rejected:
            return self.words
        return ADVICE["ledger_down"] if "ledger_down" in self.rejected else ""

    def take_unused(self, model: str, most_pusd: int) -> bool:
        """What was reserved for a model and not used pays for it now, if it is enough; else it is given back."""
        unused = self.unused.pop(model, None)
        if unused is None:
            return False
        if unused.pusd < most_pusd:
            self.charges.append(charge(unused, 0, "not_run"))
            return False
        self.held = unused
        return True

    # --- after an attempt ------------------------------------------------------------------------------------------

    def settle(self, outcome: str, status: int | None, usage: Usage | None, *, sent: bool = True) -> None:
        """An attempt is over: what it cost, or all that was reserved where nobody can tell. Never silently nothing.

        Who was answered by an error status, or by nobody, is not billed.
        """
        held, self.held, self.last = self.held, None, None
        generation, self.generation = self.generation, None
        if held is None:
            return
        if outcome in NOT_RUN or not sent:
            self.unused[held.model] = held
            return
        self.last = _charged(held, outcome, status, usage, generation)
        self.charges.append(self.last)

    def in_all(self) -> tuple[Charge, ...]:
        """Of everything that was reserved, when the run ends."""
        rest = [*self.unused.values(), *([self.waiting] if self.waiting is not None else [])]
        return (*self.charges, *(charge(hold, 0, "not_run") for hold in rest))

    def cost_usd(self) -> str:
        """What the attempts cost together."""
        return usd_of(sum(pusd_of(one.cost_usd) for one in self.charges))

    def estimated(self) -> bool:
        """Whether some of that is what was reserved, as nobody can tell."""
        return any(one.by == "estimated" for one in self.charges)


def charge(hold: Hold, pusd: int, by: ChargedBy, generation: str | None = None) -> Charge:
    """What a reservation came to."""
    return Charge(attempt=hold.attempt, model=hold.model, cost_usd=usd_of(pusd), by=by, generation=generation)


def _charged(held: Hold, outcome: str, status: int | None, usage: Usage | None, generation: str | None) -> Charge:
    """`generation` is told where the provider's record would know better than we."""
    if outcome == "refused_connection" or status not in (None, 200):
        return charge(held, 0, "not_run")
    if usage is not None and usage.cost_usd is not None:
        return charge(held, pusd_of(usage.cost_usd), "provider")
    if usage is None or usage.estimated or not held.price.known:
        return charge(held, held.pusd, "estimated", generation)
    return charge(held, cost_pusd(held.price, usage), "usage", generation)
