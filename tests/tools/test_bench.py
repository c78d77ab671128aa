"""A bench runs and says its bars; what they measure needs a quiet machine and is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from understudy.tools.bench import budget


@pytest.mark.timeout(120)
def test_bench_bus_measures_what_runs_and_prints_its_bars(root: Path):
    code = "from understudy.tools.cli import main; main(['bench', 'bus', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=110
    )
    report = json.loads(done.stdout)
    values = {one["id"]: one["value"] for one in report["bars"]}
    assert set(values) == {
        "select_p50_ratio", "select_rate_ratio", "relay_ratio", "relay_added_ms", "rss_rest_mb", "rss_load_mb",
    }  # fmt: skip
    assert all(isinstance(value, float | int) for value in values.values()), values
    relay, select = report["detail"]["relay"], report["detail"]["select"]["3"]
    assert relay["chunks_under_load"] >= 50 * 20, "every stream of the load arrived"
    assert select["candidates"] == {"models": 3, "ranked": 3, "rejected": {}}
    assert done.returncode == (0 if all(one["holds"] for one in report["bars"]) else 1)


@pytest.mark.timeout(120)
def test_bench_generate_measures_every_arm_and_prints_its_probes(root: Path):
    code = "from understudy.tools.cli import main; main(['bench', 'generate', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=110
    )
    report = json.loads(done.stdout)
    assert [one["id"] for one in report["bars"]] == [
        "added_p50_ms", "calls_per_s", "calls_ratio", "added_ttft_ms", "cpu_ms_per_call",
    ]  # fmt: skip
    detail = report["detail"]
    assert min(detail["fsync_ms"], detail["echo_ms"]) > 0
    for arm, medians in detail["medians"].items():
        assert medians["p50"] > 0 and medians["ttft"] > 0 and medians["rate"] > 0, arm


@pytest.mark.timeout(150)
def test_bench_budget_counts_and_finds_a_ledger_that_forgets(root: Path):
    code = "from understudy.tools.cli import main; main(['bench', 'budget', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=140
    )
    report = json.loads(done.stdout)
    values = {one["id"]: one["value"] for one in report["bars"]}
    assert (values["answered"], values["refused"], values["control_caught"]) == (100, 20, 1)
    assert values["ledger_error_usd"] == values["overspent_usd"] == values["killed_unbooked_usd"] == 0
    rounds = report["detail"]["rounds"]
    assert float(rounds["control"]["billed_usd"]) > float(report["detail"]["limit_usd"])
    known = rounds["killed"][-1]["charged_by"]
    assert known["nobody told"] + known["estimated"] > 0, "the kills struck in the middle"
    # A busy machine may be through with all requests before the last of the four is killed.
    luck = {"killed_processes", "killed_nobody_told", "killed_estimated"}
    assert {one["id"] for one in report["bars"] if not one["holds"]} <= luck
    assert values["killed_processes"] >= 2


def test_bench_budget_judges_the_money_of_every_killed_round() -> None:
    spent = str(budget.LIMIT_USD)
    clean = budget.Count(
        answered=100, refused=300, others={}, billed_usd=spent, booked_usd=spent,
        charged_by={"nobody told": 1, "estimated": 1}, killed=budget.TO_KILL, seconds=1.0,
    )  # fmt: skip
    dear = replace(clean, billed_usd="1", charged_by={"nobody told": 1, "estimated": 0})
    assert clean.struck and not dear.struck and not replace(clean, killed=2).struck
    control = replace(clean, billed_usd="1")
    found = {one.id: one for one in budget.bars(budget.Scale(), clean, clean, [dear, clean], control)}
    assert {name for name, one in found.items() if not one.holds} == {"overspent_usd", "killed_unbooked_usd"}
    found = {one.id: one for one in budget.bars(budget.Scale(), clean, clean, [clean, dear], clean)}
    assert not found["killed_estimated"].holds and not found["control_caught"].holds
