"""Which Python to make the virtual environment with: of one version, one build can be a fifth faster than another.

    python3 tools/interpreter.py            # prints the path that `make` takes when PYTHON is not given
    python3 tools/interpreter.py --measure  # milliseconds of the probe, here

Builds differ by profile-guided optimisation: distributions have it, a version manager's own compilation often has not.
Actors are bound by their interpreter, so it shows in every figure (README, "Measured"). Candidates have the version
of the Python that asks, can make virtual environments, and lie on PATH or where systems keep theirs; the one that asks
is taken unless another is clearly faster. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

FASTER = 1.1
"""How many times as fast another build must be. Below that it is noise, or not worth a surprise."""

ROUNDS = 6
SYSTEM = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
OLDEST = 3, 11
FACTS = "import ensurepip, sys, venv; print(*sys.version_info[:2], sys.implementation.name)"


class _Box:
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def grown(self, by: int) -> _Box:
        return _Box(self.name, self.size + by)


def probe_ms() -> float:
    """Milliseconds of a fixed piece of what actors do: calls, attributes, small objects, dictionaries, strings."""
    began = time.perf_counter()
    boxes: dict[str, _Box] = {}
    for i in range(20_000):
        name = f"box.{i % 200}"
        box = boxes.get(name)
        boxes[name] = _Box(name, i) if box is None else box.grown(i & 7)
        if len(name.partition(".")[2]) > 3:
            boxes.pop(name)
    sum(box.size for box in boxes.values())
    return (time.perf_counter() - began) * 1000


def candidates(asking: str, folders: list[str]) -> list[str]:
    """The interpreter that asks, then others of its version in these folders, each once."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = {os.path.realpath(asking): asking}
    wanted = [str(sys.version_info[0]), str(sys.version_info[1]), sys.implementation.name]
    for folder in folders:
        path = str(Path(folder) / name)
        if os.access(path, os.X_OK) and os.path.realpath(path) not in found and _said(path, "-c", FACTS) == wanted:
            found[os.path.realpath(path)] = path
    return list(found.values())


def fastest(paths: list[str]) -> tuple[str, float]:
    """The path to take, and how many times as fast as the first it is (1.0 if it is the first)."""
    best = dict.fromkeys(paths, float("inf"))
    for _ in range(ROUNDS):
        for path in paths:  # in turns: the machine may be busy with something else for a while
            said = _said(path, __file__, "--measure")
            best[path] = min(best[path], float(said[0]) if said else float("inf"))
    taken = min(paths, key=lambda path: best[path])
    ratio = best[paths[0]] / best[taken]
    return (taken, ratio) if ratio >= FASTER else (paths[0], 1.0)


def _said(*command: str) -> list[str]:
    """What a command prints, in words; nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def main(words: list[str]) -> int:
    """Print the choice; why, on standard error."""
    if words == ["--measure"]:
        print(min(probe_ms() for _ in range(5)))
        return 0
    if words:
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    if sys.version_info[:2] < OLDEST:
        have = ".".join(map(str, sys.version_info[:3]))
        print(f"python3 is {have}, and 3.11 is the oldest that will do; PYTHON=PATH names another", file=sys.stderr)
        return 1
    taken, ratio = fastest(candidates(sys.executable, [*os.get_exec_path(), *SYSTEM]))
    if taken != sys.executable:
        why = f"the same version as python3, and a build that is {ratio:.2f} times as fast"
        print(f"making the virtual environment with {taken}: {why} (PYTHON=python3 decides otherwise)", file=sys.stderr)
    print(taken)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
