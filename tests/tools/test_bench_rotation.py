"""`bench rotation` measures what it says: its quick form holds every bar, and its count finds what it is to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.tools.bench.rotation import Rotated, later_uses
from understudy.tools.fake.exchange import key_hash


@pytest.mark.timeout(120)
def test_no_request_fails_none_uses_the_old_key_and_nothing_is_left_of_what_was_erased(root: Path) -> None:
    code = "from understudy.tools.cli import main; main(['bench', 'rotation', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=110
    )
    report = json.loads(done.stdout or "null")
    assert report is not None, done.stderr
    values = {one["id"]: one["value"] for one in report["bars"]}
    assert (done.returncode, values["failed_requests"], values["old_key_accepted"]) == (0, 0, 0), report
    assert (values["planted_failed"], values["planted_old_key"], values["rotations"]) == (1, 1, 2)
    assert (values["erased_found"], values["others_lost"], values["replay_differs"]) == (0, 0, 0)
    assert values["planted_found"] == report["detail"]["erasure"]["planted"] == 7
    assert report["detail"]["erasure"]["replayed"] >= 11
    assert values["requests"] > 30 and len(report["detail"]["key_ids_that_served"]) == 3


def test_the_count_of_later_uses() -> None:
    rotated = [Rotated("a", 100.0, 0.1), Rotated("b", 200.0, 0.1)]
    rows = [("a", 99.0), ("a", 101.0), ("b", 150.0), ("b", 201.0), ("c", 300.0), ("", 300.0)]
    assert later_uses([{"key": key_hash(k), "started_ms": at} for k, at in rows], rotated) == 2
