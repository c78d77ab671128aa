"""Who holds a state folder."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from understudy.actors.host.state_folder import AGAIN_S, Taken, take, taken


def test_a_folder_is_taken_until_its_supervisor_is_gone(tmp_path: Path) -> None:
    assert not taken(tmp_path / "state")
    lock = take(tmp_path / "state")
    assert taken(tmp_path / "state")
    with pytest.raises(Taken):
        take(tmp_path / "state")
    lock.close()  # as the end of its process does, however it dies
    assert not taken(tmp_path / "state")
    take(tmp_path / "state").close()


def test_whoever_looks_does_not_keep_a_supervisor_from_starting(tmp_path: Path) -> None:
    take(tmp_path).close()
    with (tmp_path / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        done = threading.Timer(AGAIN_S / 2, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        done.start()
        take(tmp_path).close()
        done.join()
