"""TTA's acceptance scenarios, each by its number; `bench scenarios` plays the same functions."""

from __future__ import annotations

import pytest

from understudy.tools.bench import scenarios

pytestmark = pytest.mark.timeout(60)


async def test_scenario_1_free_only() -> None:
    assert await scenarios.scenario_1() == []


async def test_scenario_2_account_quota() -> None:
    assert await scenarios.scenario_2() == []


async def test_scenario_3_player_first() -> None:
    assert await scenarios.scenario_3() == []


async def test_scenario_4_a_retired_model() -> None:
    assert await scenarios.scenario_4() == []


async def test_scenario_5_true_identity() -> None:
    assert await scenarios.scenario_5() == []
