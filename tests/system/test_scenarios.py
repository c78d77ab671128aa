"""TTA's acceptance scenarios, each by its number; `bench scenarios` runs the same functions."""

from __future__ import annotations

import pytest

from understudy.tools.bench import scenarios

pytestmark = pytest.mark.timeout(60)


async def test_scenario_5_true_identity() -> None:
    assert await scenarios.scenario_5() == []
