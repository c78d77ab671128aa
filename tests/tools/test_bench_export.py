"""`understudy bench export` in small: the file holds the log, and each control is found by what should find it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="needs the extra `analysis`")


@pytest.mark.timeout(120)
def test_the_log_comes_back_and_what_is_broken_shows(root: Path) -> None:
    code = "from understudy.tools.cli import main; main(['bench', 'export', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=110
    )
    report = json.loads(done.stdout)
    values = {one["id"]: one["value"] for one in report["bars"]}
    assert list(values) == ["events_per_s", "hash_equal"] and values["hash_equal"] == 1, report["detail"]["differ"]
    controls = report["detail"]["controls"]
    assert {"rows", "fold_selector", "fold_buckets"} <= set(controls["altered"])
    assert {"rows", "count", "types", "fold_selector", "fold_buckets"} <= set(controls["dropped"])
    assert {"rows", "count", "fold_buckets"} <= set(controls["doubled"])
    assert controls["wrong_column"] == ["prompt_tokens"]
    sums = report["detail"]["sums"]
    assert min(sums["prompt_tokens"], sums["attempts"], float(sums["cost_usd"]), sums["rating"]) > 0
