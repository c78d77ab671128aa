"""The disk below the log: slow now and then, sometimes broken, and told apart from what only the server has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from understudy.actors.host.log_sync import Synced
from understudy.bus.memory import Broker
from understudy.bus.subjects import evt_stream

QUICK_S, SLOW_S = (0.0002, 0.003), (0.02, 0.3)
SLOW, BROKEN = 0.03, 0.003


@dataclass
class Platter:
    """How far the log would go after a power cut."""

    broker: Broker
    seq: int = 0

    def disk(self, seed: str) -> Disk:
        """What one life of a process syncs it by."""
        return Disk(self, Random(seed))


@dataclass
class Disk:
    """See `log_sync.Disk`: one sync at a time, those who come meanwhile share the next."""

    platter: Platter
    luck: Random
    waiting: list[Synced] = field(default_factory=list[Synced])
    busy: bool = False

    def wait(self, synced: Synced, others: int) -> None:
        """See `log_sync.Disk`."""
        self.waiting.append(synced)
        if not self.busy:
            self._start()

    def stop(self) -> None:
        """See `log_sync.Disk`."""
        self.waiting.clear()

    def _start(self) -> None:
        self.busy = True
        told, self.waiting = self.waiting, []
        takes_s = self.luck.uniform(*(SLOW_S if self.luck.random() < SLOW else QUICK_S))
        reaches = self.platter.broker.stream(evt_stream("tta")).last
        asyncio.get_running_loop().call_later(takes_s, self._done, told, reaches)

    def _done(self, told: list[Synced], reaches: int) -> None:
        self.busy = False
        failure = OSError("input/output error") if self.luck.random() < BROKEN else None
        if failure is None:
            self.platter.seq = max(self.platter.seq, reaches)
        for synced in told:
            synced(failure)
        if self.waiting and not self.busy:
            self._start()
