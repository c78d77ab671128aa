"""Folders under watch while a system runs: whatever is written there is read, also what is gone a moment later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from understudy.tools.bench.canaries.forms import Found, Search
from understudy.tools.bench.canaries.rules import Hit

EVERY_S = 0.15
WHOLE_BYTES = 2**20
"""A file up to this size is read whole each time it has changed; of a larger one, what was added."""
MOST_BYTES = 256 * 2**20


class Watch:
    """Reads what changed in `folder`, again and again, then everything once more with hashes."""

    def __init__(self, search: Search, folder: Path, since_s: float = 0.0, skip: frozenset[str] = frozenset()) -> None:
        """`since_s`: files whose status changed before (Unix time) are not ours. `skip`: folders in it, likewise."""
        self.hits: set[Hit] = set()
        self.files, self.looks = 0, 0
        self._search, self._folder, self._since_s, self._skip = search, folder, since_s, skip
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """What has changed since the last look. Blocks."""
        for path, about in self._all():
            inode, now = (about.st_dev, about.st_ino), (about.st_mtime_ns, about.st_size)
            before = self._seen.get(inode)
            if before != now:
                self._seen[inode] = now
                begin = before[1] if before is not None and before[1] <= now[1] else 0
                self._read(path, 0 if now[1] <= WHOLE_BYTES else begin)
        self.looks += 1

    def read_all(self) -> None:
        """Every file as it is now, whole, and hashes too. Blocks."""
        self.files = 0
        for path, _ in self._all():
            self.files += 1
            with contextlib.suppress(OSError):
                self._note(path, self._search.all(path.read_bytes()))

    def _all(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, inner, names in os.walk(self._folder):
            inner[:] = [name for name in inner if str(Path(folder, name)) not in self._skip]
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    about = path.lstat()
                    if stat.S_ISREG(about.st_mode) and about.st_ctime >= self._since_s and about.st_size <= MOST_BYTES:
                        yield path, about

    def _read(self, path: Path, begin: int) -> None:
        with contextlib.suppress(OSError), path.open("rb") as file:  # gone meanwhile
            file.seek(max(0, begin - self._search.overlap))
            self._note(path, self._search.encodings(file.read()))

    def _note(self, path: Path, found: set[Found]) -> None:
        name = str(path.relative_to(self._folder))
        found |= self._search.all(os.fsencode(name))
        self.hits |= {Hit("file", name, canary, form) for canary, form in found}


def now_s() -> float:
    """As the kernel stamps files: its clock may be a tick behind `time.time`."""
    return time.clock_gettime(time.CLOCK_REALTIME) - 0.02
