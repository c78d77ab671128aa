"""What every bench prints: bars with an id, a value, the bar, the aim, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import msgspec


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One figure beside its bar. `better`: whether lower or higher values are good. `bar` None: reported only."""

    id: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    better: Literal["lower", "higher"] = "lower"
    holds: bool = True


def bar(
    name: str,
    value: float,
    unit: str,
    limit: float | None = None,
    aim: float | None = None,
    better: Literal["lower", "higher"] = "lower",
) -> Bar:
    """A bar, judged."""
    holds = limit is None or (value <= limit if better == "lower" else value >= limit)
    return Bar(id=name, value=round(value, 4), unit=unit, bar=limit, aim=aim, better=better, holds=holds)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One bench: the bars and everything behind them."""

    bench: str
    bars: tuple[Bar, ...]
    detail: dict[str, Any] = {}

    def table(self) -> str:
        """For people."""
        lines = [f"{'':3}{'id':22}{'value':>12}  {'unit':8}{'bar':>10}{'aim':>10}"]
        for one in self.bars:
            mark = "ok" if one.holds else "NO"
            limit = "-" if one.bar is None else f"{one.bar:g}"
            aim = "-" if one.aim is None else f"{one.aim:g}"
            lines.append(f"{mark:3}{one.id:22}{one.value:>12g}  {one.unit:8}{limit:>10}{aim:>10}")
        return "\n".join(lines)


def quantile(values: Sequence[float], share: float) -> float:
    """The value at this share of the sorted values; NaN-free: 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def median(values: Sequence[float]) -> float:
    """The median; 0 for none."""
    return statistics.median(values) if values else 0.0
