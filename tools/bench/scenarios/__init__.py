"""Acceptance scenarios of TTA, end to end over a real nats-server against the fake, each with its exact numbers.

Each is a module: what was seen is one struct of facts, one function judges it, and facts that are wrong on purpose must
not pass that judgement. `tests/system/test_scenarios.py` plays the same functions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from understudy.tools.bench.graph.homes import Missing, home, wanted
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


async def measure(home_name: str = "") -> Result:
    """All scenarios, one after the other; the ninth on each home of the graph that is at hand."""
    found = {f"scenario_{number}": await scenario(Play()) for number, scenario in sorted(SCENARIOS.items())}
    missing: dict[str, str] = {}
    try:
        from understudy.tools.bench.scenarios.replay_for_analysis import scenario_9
    except ModuleNotFoundError:
        missing["scenario_9"] = "the driver is not installed: pip install 'understudy[graph]'"
    else:
        for name in wanted(home_name):
            try:
                with home(name) as server:
                    found[f"scenario_9_{name}"] = await scenario_9(server)
            except Missing as why:
                missing[f"scenario_9_{name}"] = str(why)
    bars = tuple(bar(name, float(not wrong), "holds", 1, None, "higher") for name, wrong in found.items())
    return Result(bench="scenarios", bars=bars, detail={**found, "missing": missing})


def explain(result: Result) -> str:
    """What was wrong, for people."""
    found = {name: wrong for name, wrong in result.detail.items() if name != "missing"}
    lines = [f"{name}: {'; '.join(wrong) or 'as it must be'}" for name, wrong in found.items()]
    return "\n".join([*lines, *(f"{name}: not played, {why}" for name, why in result.detail["missing"].items())])
