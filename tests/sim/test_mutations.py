"""The simulation finds bugs: each patch in `patches/` puts one line of the shipped code wrong and has to be caught.

A patch that no longer applies fails here: put the line wrong again by hand, say in a first line what is wrong, and keep
it with `git diff -U1 >> tests/sim/patches/NAME.patch`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATCHES = sorted((Path(__file__).parent / "patches").glob("*.patch"))
SEEDS = 500


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The code and the simulation, to be put wrong."""
    there = tmp_path / "understudy"
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in ("messages", "bus", "actors", "tests/sim"):
        shutil.copytree(root / folder, there / folder, ignore=skipped)
    shutil.copy(root / "topology.yaml", there)
    (there / ".src").mkdir()
    (there / ".src" / "understudy").symlink_to("..")
    return there


def test_there_are_enough() -> None:
    assert len(PATCHES) >= 8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_caught(patch: Path, copy: Path) -> None:
    applied = subprocess.run(["git", "apply", str(patch)], cwd=copy, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{patch.name} no longer applies, make it anew:\n{applied.stderr}"
    argv = [sys.executable, "tests/sim", "--seeds", str(SEEDS), "--stop"]
    played = subprocess.run(argv, cwd=copy, capture_output=True, text=True, check=False, timeout=500)
    assert played.returncode == 1, f"{patch.name} was not caught within {SEEDS} seeds\n{played.stderr[-2000:]}"
    found = json.loads(played.stdout.splitlines()[-1])
    assert found["seed"] is not None and found["wrong"]
