"""The contracts on imports hold for this tree, and a planted import breaks them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = "3 kept, 0 broken"


def copied(to: Path) -> Path:
    """The sources and their contracts, where a line can be planted."""
    for folder in ("messages", "bus", "actors", "tools"):
        shutil.copytree(ROOT / folder, to / folder, ignore=lambda _, names: [n for n in names if "__pycache__" in n])
    shutil.copy(ROOT / "pyproject.toml", to)
    (to / "__init__.py").touch()  # else the installed package, a namespace as this one, would be a part of it
    (to / ".src").mkdir()
    (to / ".src/understudy").symlink_to("..")
    return to


def judged(tree: Path) -> str:
    """What the linter of imports says of a tree."""
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(linter), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": ".src"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


PLANTED = [
    ("actors/cost_ledger/budgets.py", "understudy.actors.selector.admit"),  # one actor knows another
    ("actors/host/seats.py", "understudy.actors.runner.gate"),  # the machine knows how one of its actors decides
    ("actors/selector/choose.py", "understudy.actors.host.logs"),  # and the other way round
    ("messages/places.py", "understudy.bus.port"),
    ("actors/selector/core.py", "time"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for all tests here."""
    return copied(tmp_path_factory.mktemp("tree"))


def test_the_contracts_hold(tree: Path) -> None:
    assert KEPT in judged(tree)


@pytest.mark.parametrize(("where", "planted"), PLANTED)
def test_a_planted_import_breaks_them(tree: Path, where: str, planted: str) -> None:
    path, before = tree / where, (tree / where).read_text()
    path.write_text(f"{before}\nimport {planted}\n")
    try:
        found = judged(tree)
    finally:
        path.write_text(before)

    assert "1 broken" in found
    assert planted in found
