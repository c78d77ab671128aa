"""Where a byte string can be found in a living process: memory, environment, command line, open files (Linux).

What a process that hides itself (PR_SET_DUMPABLE 0) holds, only the superuser can see; others get `Unreadable`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

CHUNK_BYTES = 4 * 2**20
FILE_BYTES = 64 * 2**20
"""So much of an open file is read at most."""


class Unreadable(Exception):
    """The process may not be looked into by this user."""


def search(pid: int, needle: bytes) -> list[str]:
    """The places: `mem`, `environ`, `cmdline`, `fd N`. Raises Unreadable, ProcessLookupError."""
    return sorted(place for place, _ in look(pid, lambda data: {needle} if needle in data else set(), len(needle)))


def look(pid: int, find: Callable[[bytes], set[T]], overlap: int) -> set[tuple[str, T]]:
    """Whatever `find` finds in a piece of the process, with the place. Pieces of memory overlap by so many bytes.

    Raises Unreadable, ProcessLookupError.
    """
    folder = Path("/proc") / str(pid)
    try:
        found = {(name, one) for name in ("environ", "cmdline") for one in find((folder / name).read_bytes())}
        found |= {(f"fd {link.name}", one) for link in (folder / "fd").iterdir() for one in find(_file(link))}
        return found | {("mem", one) for one in _in_memory(folder, find, overlap)}
    except PermissionError:
        raise Unreadable(f"process {pid} may not be looked into") from None
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def descendants(pid: int) -> list[int]:
    """All living processes that `pid` started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def _in_memory(folder: Path, find: Callable[[bytes], set[T]], overlap: int) -> set[T]:
    found: set[T] = set()
    with (folder / "mem").open("rb", buffering=0) as memory:
        for line in (folder / "maps").read_text().splitlines():
            words = line.split()
            if words[1].startswith("r") and words[-1] not in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
                begin, end = (int(x, 16) for x in words[0].split("-"))
                found |= _in_region(memory.fileno(), begin, end, find, overlap)
    return found


def _in_region(fd: int, begin: int, end: int, find: Callable[[bytes], set[T]], overlap: int) -> set[T]:
    """Chunk by chunk, with an overlap; pages that cannot be read (a device, a hole in a file) hold nothing of ours."""
    found: set[T] = set()
    for at in range(begin, end, CHUNK_BYTES):
        try:
            found |= find(os.pread(fd, min(CHUNK_BYTES + overlap, end - at), at))
        except (OSError, OverflowError):
            continue
    return found


def _file(link: Path) -> bytes:
    """Regular files alone, deleted ones too: who reads a pipe takes from it."""
    try:
        if not stat.S_ISREG(link.stat().st_mode):
            return b""
        with link.open("rb") as file:
            return file.read(FILE_BYTES)
    except (FileNotFoundError, PermissionError):  # closed meanwhile, or opened for writing alone
        return b""
