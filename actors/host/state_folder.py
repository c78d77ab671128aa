"""One supervisor per state folder: it holds a lock that ends with it, however it dies, and so tells who lives."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

LOCK = "lock"
TRIES, AGAIN_S = 5, 0.05


class Taken(Exception):
    """Another supervisor runs on this folder."""


def take(state: Path) -> IO[str]:
    """Make the folder and hold it until the file is closed. Raises Taken."""
    state.mkdir(parents=True, exist_ok=True)
    lock = (state / LOCK).open("a+")
    for left in reversed(range(TRIES)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if left:  # whoever looks holds it for an instant
                time.sleep(AGAIN_S)
                continue
            lock.close()
            raise Taken from None
        break
    return lock


def taken(state: Path) -> bool:
    """Whether a supervisor runs on this folder now."""
    try:
        with (state / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
