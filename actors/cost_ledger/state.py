"""What the ledger holds beside its fold: reservations on their way into the log, and who waits for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from understudy.actors.cost_ledger.book import Book
from understudy.messages.cost import CostReserved


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`margin_ms`: so long after its deadline a run's end may come until its reservation counts as spent."""

    margin_ms: int = 10_000
    sweep_ms: int = 500
    store_ms: int = 2_000  # so long a reservation may take to be stored before it is refused
    reconcile_ms: int = 10_000  # so long after it was booked an estimate is compared with the provider's own record


@dataclass(slots=True)
class Pending:
    """A reservation that was decided: it counts here until it is `folded`, and is granted when it is on the disk."""

    event: CostReserved
    pusd: int
    accounts: list[str]
    replies: dict[str, None] = field(default_factory=dict[str, None])  # in order, each once
    folded: bool = False
    stored: bool = False  # the log has said so
    confirmed: bool = False  # by log and disk


@dataclass(slots=True)
class Look:
    """How often a record was asked for, and when it is next. `until_ms`: an answer is awaited until then."""

    tries: int = 0
    next_ms: float = 0.0
    until_ms: float = 0.0


@dataclass(slots=True)
class State:
    """`live` is False while the log is folded: what happened then was announced then."""

    live: bool = False
    app: str = ""
    inbox: str = ""
    book: Book = field(default_factory=Book)
    pending: dict[str, Pending] = field(default_factory=dict[str, Pending])  # by message id
    on_its_way: dict[str, int] = field(default_factory=dict[str, int])  # by account: pico-USD of the pending ones
    telling: set[str] = field(default_factory=set[str])  # ids of other facts on their way
    looks: dict[str, Look] = field(default_factory=dict[str, Look])  # records that are asked for

    def put(self, msg_id: str, pending: Pending) -> None:
        """A reservation is on its way into the log; it counts from now on."""
        self.pending[msg_id] = pending
        for name in pending.accounts:
            self.on_its_way[name] = self.on_its_way.get(name, 0) + pending.pusd

    def fold(self, msg_id: str) -> Pending | None:
        """It counts in the fold from now on, or the log refused it."""
        pending = self.pending.get(msg_id)
        if pending is None or pending.folded:
            return None
        pending.folded = True
        for name in pending.accounts:
            rest = self.on_its_way.pop(name, 0) - pending.pusd
            if rest:
                self.on_its_way[name] = rest
        return pending

    def used_pusd(self, account: str) -> int:
        """What is spent, reserved and on its way to be."""
        known = self.book.accounts.get(account)
        return self.on_its_way.get(account, 0) + (known.spent_pusd + known.reserved_pusd if known is not None else 0)
