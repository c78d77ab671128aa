"""Windows of time in UTC, and the accounts that an amount is counted in. Pure: times are Unix milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, get_args

from understudy.messages.cost import Scope, Window

LIFE = "life"
WINDOWS: dict[int, Window] = {len("2026-11-22"): "day", len("2026-11"): "month", len(LIFE): "conversation"}
"""By the length of a label."""
SCOPES: dict[str, Scope] = {scope: scope for scope in get_args(Scope)}
Kind = tuple[Scope, Window]


class Place(NamedTuple):
    """One account: whose spending, in which window."""

    scope: Scope
    key: str
    window: Window
    label: str  # 2026-11-22, 2026-11, life

    def name(self) -> str:
        """As the fold knows it. Keys hold no spaces."""
        return f"{self.scope} {self.label} {self.key}"


def day_of(at_ms: int) -> tuple[str, int]:
    """The day's name and its end."""
    day = _at(at_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.strftime("%Y-%m-%d"), _ms(day + timedelta(days=1))


def month_of(at_ms: int) -> tuple[str, int]:
    """The month's name and its end."""
    first = _at(at_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first.strftime("%Y-%m"), _ms((first + timedelta(days=32)).replace(day=1))


def places(model: str, provider: str, user: str, conversation: str, at_ms: int) -> dict[Place, int]:
    """Every account that an attempt is counted in, with its window's end (0: never).

    Also those that no budget looks at: one that is declared later then knows what has been spent in its window.
    """
    keys: list[tuple[Scope, str]] = [("all", ""), ("provider", provider), ("model", model), ("user", user)]
    if conversation:
        keys.append(("conversation", conversation))
    (day, day_end), (month, month_end) = day_of(at_ms), month_of(at_ms)
    found: dict[Place, int] = {}
    for scope, key in keys:
        found[Place(scope, key, "day", day)] = day_end
        found[Place(scope, key, "month", month)] = month_end
    if conversation:
        found[Place("conversation", conversation, "conversation", LIFE)] = 0
    return found


def place_of(name: str) -> Place:
    """The account with this name. Raises KeyError for what is none."""
    scope, label, key = name.split(" ", 2)
    return Place(SCOPES[scope], key, WINDOWS[len(label)], label)


def kind_of(name: str) -> tuple[Kind, str]:
    """What a budget must be of to look at the account with this name, and the key. There may be very many of them.

    Raises KeyError for what is none."""
    scope, label, key = name.split(" ", 2)
    return (SCOPES[scope], WINDOWS[len(label)]), key


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000
