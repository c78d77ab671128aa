"""The demo holds what it claims, judged by its own JSON report and by what is left of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="local models need the extra `local`")


@pytest.mark.timeout(120)
def test_demo_reports_two_attempts_one_seam_one_outcome(root: Path):
    code = "from understudy.tools.cli import main; main(['demo', '--json', '--seed', '11'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["attempts"], report["seams"], report["outcomes_stored"]) == (2, 1, 1)
    assert report["text_equal"] and report["seq_without_gap"] and report["recorded"]
    assert len(set(report["models"])) == 2 and min(report["tokens"].values()) >= 8
    assert report["processes_left"] == 0
