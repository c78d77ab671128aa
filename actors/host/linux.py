"""What only Linux offers for processes, by prctl(2). Elsewhere these say False, and plain processes must do."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 4, 15, 36


def adopt_orphans() -> bool:
    """Descendants whose parent ends become this process's children, to be waited for like its own."""
    return hasattr(os, "pidfd_open") and _prctl(_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> bool:
    """The kernel kills this process when `parent` ends, however either of them is stuck; at once if it already has."""
    done = _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if done and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def hold_secrets() -> None:
    """For a process that is about to hold a key: no core dump of it, and on Linux no other process of this user may
    read its memory, environment or descriptors (PR_SET_DUMPABLE in prctl(2)). The superuser may."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_SET_DUMPABLE, 0)


def no_core_dumps() -> None:
    """Neither of this process nor of those that it will start: their memory holds what people wrote."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def name_process(name: str) -> bool:
    """The name that `ps -o comm` and `top` show, cut to 15 bytes."""
    return _prctl(_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, value: int | ctypes.c_char_p) -> bool:
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0
