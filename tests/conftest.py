"""What every test may use: the project's root, and where the workplace's real programs are, if they are."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.system.expected")  # a helper that asserts shows both sides, as a test does
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_bin() -> Path:
    """Real programs that nobody here wrote (Go NATS clients, toxiproxy, Ollama); a newcomer does not have them."""
    folder = ROOT.parent / "shared" / "bin"
    if not folder.is_dir():
        pytest.skip("no ../shared/bin: real third-party programs are not at hand")
    return folder
