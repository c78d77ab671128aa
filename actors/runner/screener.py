"""The gate's look at content: rules are loaded, and long orders are read beside the loop.

What fails is a refusal, and told to the operator: where, and what kind of error, but never its text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from understudy.actors.runner.gate import CONTENT, Case, Scanners, texts, walk
from understudy.actors.safety_validator import Finding, redact, scanner
from understudy.messages.step import Input, Screen, Screened

INLINE_CHARS = 16_384
"""Up to here an order is read on the loop, in about a millisecond; megabytes take seconds, in a thread."""


class Packs:
    """The rule packs of the safety validator."""

    def __init__(self) -> None:
        """Raises PackError."""
        self._secrets, self._pii = scanner("secrets"), scanner("pii")

    def warm_up(self) -> None:
        """So that the first request does not wait for the rules' automata."""
        self._secrets.warm_up()
        self._pii.warm_up()

    def secrets(self, text: str) -> Sequence[Finding]:
        """See `gate.Scanners`. Raises ScanError."""
        return self._secrets.scan(text)

    def pii(self, text: str) -> Sequence[Finding]:
        """See `gate.Scanners`. Raises ScanError."""
        return self._pii.scan(text)

    def redact(self, text: str, findings: Sequence[Finding]) -> str:
        """See `gate.Scanners`. Raises ScanError."""
        return redact(text, findings, self._pii.scan)


def judged(
    effect: Screen, scanners: Scanners, now_ms: Callable[[], float], failed: Callable[[Exception], None]
) -> Screened:
    """What of an order may leave. `failed` is told what a stage raised."""
    case = Case(effect.run, scanners=scanners, refuse_pii=effect.refuse_pii)
    blocked = walk(case, CONTENT, failed)
    run = None if blocked else case.run
    return Screened(now_ms(), effect.call_id, run, 0 if blocked else case.redacted, blocked)


class Screener:
    """Performs `Screen`; answers through `feed`, never from within."""

    def __init__(
        self,
        scanners: Scanners,
        now_ms: Callable[[], float],
        feed: Callable[[Input], None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._scanners, self._now_ms, self._feed, self._failed = scanners, now_ms, feed, failed
        self._reading: set[asyncio.Task[None]] = set()

    def screen(self, effect: Screen) -> None:
        """Begin."""
        if _is_short(effect):
            asyncio.get_running_loop().call_soon(self._at_once, effect)
            return
        task = asyncio.get_running_loop().create_task(self._beside(effect))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    def _at_once(self, effect: Screen) -> None:
        self._feed(judged(effect, self._scanners, self._now_ms, self._failed))

    async def _beside(self, effect: Screen) -> None:
        raised: list[Exception] = []
        try:
            found = await asyncio.to_thread(judged, effect, self._scanners, self._now_ms, raised.append)
        except Exception as error:  # noqa: BLE001 - no thread was to be had, say
            raised.append(error)
            found = Screened(self._now_ms(), effect.call_id, None, blocked="gate_error")
        for error in raised:  # told here, as logs are no thread's
            self._failed(error)
        self._feed(found)


def _is_short(effect: Screen) -> bool:
    try:
        return sum(map(len, texts(effect.run))) <= INLINE_CHARS
    except Exception:  # noqa: BLE001 - the gate itself will say what is wrong with it
        return False
