"""A short `bench failover` on real processes: what does not depend on the machine's speed must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = {"status_added_ms", "hang_over_limit_ms", "death_noticed_ms", "stop_noticed_ms"}


@pytest.mark.timeout(150)
def test_each_fault_once(root: Path) -> None:
    code = (
        "import sys; from understudy.tools.cli import main; sys.exit(main(['bench', 'failover', '--quick', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=140
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    bars = {bar["id"]: bar["value"] for bar in report["bars"]}
    judged = {name: value for name, value in bars.items() if name not in TIMES}
    wrong = [row for row in report["detail"]["faults"] if row.get("wrong")]
    assert judged.pop("continued_ratio") == 1.0, wrong
    assert judged and not any(judged.values()), (judged, wrong)
    assert set(bars) >= TIMES
    late = report["detail"]["late"]["rows"]
    assert [row["seams"] for row in late] == [["continue"]] * len(late)
