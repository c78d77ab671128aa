"""Which Python `make` takes: the fastest build of the version that asks, and never a surprise for nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.tools import interpreter

ROOT = Path(__file__).parents[2]
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def stand_in(folder: Path, measured: str, facts: str | None = None, name: str = VERSION) -> Path:
    """An executable that answers as a Python would, with the figure we want it to have."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    own = facts or f"{sys.version_info[0]} {sys.version_info[1]} {sys.implementation.name}"
    path.write_text(f'#!/bin/sh\nif [ "$2" = --measure ]; then echo {measured}; else echo {own}; fi\n')
    path.chmod(0o755)
    return path


def test_the_probe_measures_this_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/interpreter.py"), "--measure"], capture_output=True, text=True, check=True
    )
    assert 0 < float(done.stdout) < 60_000


def test_a_clearly_faster_build_is_taken(tmp_path: Path) -> None:
    slow, fast = stand_in(tmp_path / "slow", "10.0"), stand_in(tmp_path / "fast", "8.0")
    assert interpreter.fastest([str(slow), str(fast)]) == (str(fast), pytest.approx(1.25))


@pytest.mark.parametrize("measured", ["9.5", "10.0", "30.0"])
def test_one_that_is_hardly_faster_is_not(tmp_path: Path, measured: str) -> None:
    asking, other = stand_in(tmp_path / "asking", "10.0"), stand_in(tmp_path / "other", measured)
    assert interpreter.fastest([str(asking), str(other)]) == (str(asking), 1.0)


def test_one_that_fails_in_the_probe_is_not_taken(tmp_path: Path) -> None:
    asking, broken = stand_in(tmp_path / "asking", "10.0"), tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert interpreter.fastest([str(asking), str(broken)]) == (str(asking), 1.0)


def test_candidates_have_our_version_and_can_make_environments(tmp_path: Path) -> None:
    good = stand_in(tmp_path / "good", "1")
    other_version = stand_in(tmp_path / "older", "1", facts="3 9 cpython")
    (tmp_path / "empty").mkdir()
    without_venv = tmp_path / "bare" / VERSION
    without_venv.parent.mkdir()
    without_venv.write_text("#!/bin/sh\nexit 1\n")  # as a Python without ensurepip does
    without_venv.chmod(0o755)
    folders = [str(path.parent) for path in (good, other_version, without_venv)]
    found = interpreter.candidates(sys.executable, [*folders, str(tmp_path / "empty"), str(tmp_path / "absent")])
    assert found == [sys.executable, str(good)]


def test_the_same_build_under_two_names_is_measured_once(tmp_path: Path) -> None:
    (tmp_path / VERSION).symlink_to(os.path.realpath(sys.executable))
    assert interpreter.candidates(sys.executable, [str(tmp_path)]) == [sys.executable]


def test_make_asks_it_unless_told(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    told = would_run(tmp_path, "PYTHON=/some/python")
    assert "python=/some/python &&" in told
    assert "interpreter.py" not in told
    assert "python=$(python3 tools/interpreter.py) &&" in would_run(tmp_path)


def would_run(tmp_path: Path, *words: str) -> str:
    """What `make install` would do, also when a make with words of its own runs us."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKEOVERRIDES")}
    command = ["make", "-n", f"VENV={tmp_path}/venv", *words, "install"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
