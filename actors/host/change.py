"""What must be done so that a running topology becomes another one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from understudy.actors.host.seats import Process, seats_of, stake
from understudy.actors.host.topology import Problem, TopologyError, hash_of
from understudy.messages.topology import Topology

FIXED = ("app", "version", "bus.port", "bus.max_payload_bytes")
"""What a running server and its clients cannot change under way."""


@dataclass(slots=True)
class Change:
    """From one topology to another: the processes that come, go, and must be told anew; all others stay untouched."""

    topology: Topology
    key_ids: dict[str, str]
    same: bool
    processes: list[Process]  # those that run afterwards
    added: list[Process] = field(default_factory=list[Process])
    removed: list[Process] = field(default_factory=list[Process])
    changed: list[Process] = field(default_factory=list[Process])
    seats: list[tuple[Process, Process]] = field(default_factory=list[tuple[Process, Process]])  # (runs, to become)

    def summary(self) -> str:
        """One line for the operator."""
        if self.same:
            return "nothing differs from what runs"
        counts = f"{len(self.added)} to start, {len(self.changed)} to restart, {len(self.removed)} to end"
        return f"topology {hash_of(self.topology)}: {counts}"

    def settle(self) -> None:
        """Those who stay get the seat that the new topology gives them; their next process is started with it."""
        for runs, wanted in self.seats:
            runs.seat, runs.provider, runs.models = wanted.seat, wanted.provider, wanted.models


def plan_change(
    old: Topology, running: Sequence[Process], new: Topology, old_ids: Mapping[str, str], new_ids: dict[str, str]
) -> Change:
    """Compare. Raises TopologyError when `new` changes what cannot be changed while it runs."""
    fixed = [p for path in FIXED if (p := _fixed(path, old, new)) is not None]
    if fixed:
        raise TopologyError(fixed)
    wanted = {p.seat.instance: p for p in seats_of(new)}
    kept = {p.seat.instance: p for p in running if p.seat.instance in wanted}
    change = Change(new, new_ids, hash_of(old) == hash_of(new) and dict(old_ids) == new_ids, [])
    change.removed = [p for p in running if p.seat.instance not in wanted]
    for instance, process in wanted.items():
        runs = kept.get(instance)
        if runs is None:
            change.added.append(process)
        else:
            change.seats.append((runs, process))
            ids = (old_ids.get(runs.provider), new_ids.get(process.provider))
            if ids[0] != ids[1] or stake(old, runs) != stake(new, process):
                change.changed.append(runs)
        change.processes.append(runs or process)
    return change


def _fixed(path: str, old: Topology, new: Topology) -> Problem | None:
    before, after = old, new
    for name in path.split("."):
        before, after = getattr(before, name), getattr(after, name)
    if before == after:
        return None
    return Problem(
        f"$.{path}", repr(after), f"{before!r} runs and cannot change while it does: stop `up`, start it anew"
    )
