"""Every process of the house: keys in memory, anything in environment, command line and open files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple, cast

from understudy.tools.bench.canaries.forms import Found, Search
from understudy.tools.bench.canaries.house import House
from understudy.tools.bench.canaries.rules import Hit, Kind, is_key, planted
from understudy.tools.bench.proc_search import Unreadable, descendants, look


class Swept(NamedTuple):
    """What was found, which processes were searched, and which may not be looked into by this user."""

    hits: set[Hit]
    searched: list[str]
    unread: list[str]


def sweep(house: House, search: Search, beside: dict[str, int]) -> Swept:
    """All processes that `up` has started and itself; `beside`: others, by name. Blocks."""
    names = {pid: instance for instance, pid in house.pids().items()} | {pid: name for name, pid in beside.items()}
    found = Swept(set(), [], [])
    for pid in (house.pid, *descendants(house.pid), *beside.values()):
        name = "supervisor" if pid == house.pid else names.get(pid) or _named(pid)
        try:
            places = look(pid, search.encodings, search.overlap)
        except ProcessLookupError:  # ended meanwhile, as who opens a vault does
            continue
        except Unreadable:
            found.unread.append(name)
            continue
        found.searched.append(name)
        found.hits.update(hit for place, one in places if _counts(hit := _hit(name, place, one)))
    return found


def _hit(name: str, place: str, one: Found) -> Hit:
    return Hit(cast(Kind, place.partition(" ")[0]), name, one.canary, one.form)


def _counts(hit: Hit) -> bool:
    """Words are in the memory of those who work with them; keys must not be."""
    return hit.kind != "mem" or is_key(hit) or planted(hit) or hit.canary == "unknown"


def _named(pid: int) -> str:
    """Of a process that is no actor: the program or module that it runs."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if "-m" in words:
            return words[words.index("-m") + 1].rpartition(".")[2]
        return Path(words[0]).name
    return "?"
