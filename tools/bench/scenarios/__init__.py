"""Acceptance scenarios of TTA, end to end over a real nats-server against the fake, each with its exact numbers.

Each is a module: what was seen is one struct of facts, one function judges it, and facts that are wrong on purpose must
not pass that judgement. `tests/system/test_scenarios.py` plays the same functions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.scenarios.account_quota import scenario_2
from understudy.tools.bench.scenarios.free_only import scenario_1
from understudy.tools.bench.scenarios.ground import Play, Wrong
from understudy.tools.bench.scenarios.player_first import scenario_3
from understudy.tools.bench.scenarios.retired_model import scenario_4
from understudy.tools.bench.scenarios.true_identity import scenario_5

SCENARIOS: dict[int, Callable[[Play], Awaitable[Wrong]]] = {
    1: scenario_1,
    2: scenario_2,
    3: scenario_3,
    4: scenario_4,
    5: scenario_5,
}


async def measure() -> Result:
    """All scenarios, one after the other."""
    found = {number: await scenario(Play()) for number, scenario in sorted(SCENARIOS.items())}
    bars = tuple(bar(f"scenario_{n}", float(not wrong), "holds", 1, None, "higher") for n, wrong in found.items())
    return Result(bench="scenarios", bars=bars, detail={f"scenario_{n}": wrong for n, wrong in found.items()})


def explain(result: Result) -> str:
    """What was wrong, for people."""
    lines = [f"{name}: {'; '.join(wrong) or 'as it must be'}" for name, wrong in result.detail.items()]
    return "\n".join(lines)
