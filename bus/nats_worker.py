"""A worker on a shared durable consumer: its own pull loop, at most `at_once` deliveries in hand.

nats-py's `fetch` builds tasks per message, cannot tell "nothing to do" from "server gone" and spins when closed. Here
one callback receives everything; requests for more overlap with the work, carry an idle heartbeat, and are made anew,
on an inbox of their own, after a reconnect or when the heartbeat fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from understudy.bus.guarded import GuardedClient, end_task
from understudy.bus.nats_message import of_log, place
from understudy.bus.port import Foreign, Received, WorkHandler

HEARTBEAT_S = 1.0
_SILENCE_S = 3 * HEARTBEAT_S
_EXPIRES_S = 30.0
_AFTER_REFUSAL_S = 0.5
_AFTER_FAILURE_S = 1.0
_STOP_S = 5.0


class WorkDelivery:
    """See `port.Delivery`. An answer that cannot be sent means redelivery, with `tries` one higher."""

    def __init__(self, message: Received, tries: int, settle: Callable[[WorkDelivery, bytes], Awaitable[None]]):
        self.message = message
        self.tries = tries
        self.settled = False
        self._settle = settle

    async def ack(self) -> None:
        """Done: never deliver it again."""
        await self._settle(self, b"+ACK")

    async def retry(self, delay_s: float) -> None:
        """Deliver it again, not before `delay_s`."""
        await self._settle(self, b"-NAK " + json.dumps({"delay": max(1, int(delay_s * 1e9))}).encode())

    async def drop(self, reason: str) -> None:
        """Never deliver it again, because it cannot be handled; the reason goes into the server's advisory."""
        await self._settle(self, b"+TERM " + " ".join(reason.split()).encode())


def _is_event(headers: dict[str, str]) -> bool:
    """As `nats_message.as_stored`, of headers that nats-py has taken apart."""
    return "Nats-Msg-Id" in headers and "Nats-Stream" not in headers


class Worker:
    """One `port.Bus.work`."""

    def __init__(
        self,
        client: GuardedClient,
        stream: str,
        consumer: str,
        handler: WorkHandler,
        *,
        at_once: int,
        report: Callable[[Exception], None],
    ) -> None:
        if at_once < 1:
            raise ValueError("at_once must be at least 1")
        self._client, self._handler, self._at_once, self._report = client, handler, at_once, report
        self._ask_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._label = f"{stream}/{consumer}"
        self._sub: Subscription | None = None
        self._inbox = ""
        self._asked = 0
        self._in_hand = 0
        self._asks = 0
        self._anew = True
        self._refused = False
        self._wake = asyncio.Event()
        self._heard_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to pull."""
        self._client.on_reconnect.append(self._start_anew)
        self._loop_task = asyncio.create_task(self._pull(), name=f"worker {self._label}")

    async def stop(self) -> None:
        """Take no more; let the handlers finish what is in hand, for at most five seconds, then cancel them."""
        if self._loop_task is None:
            return
        self._client.on_reconnect.remove(self._start_anew)
        loop_task, self._loop_task = self._loop_task, None
        await end_task(loop_task)
        if self._sub is not None:
            await self._client.end_subscription(self._sub, deliver=True)
            self._sub = None
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_S)
            await asyncio.gather(*(end_task(task) for task in late))
        await self._client.settle()  # the last answers are on their way

    def _start_anew(self) -> None:
        self._anew = True
        self._wake.set()

    async def _pull(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                if self._refused:
                    self._refused = False
                    await asyncio.sleep(_AFTER_REFUSAL_S)
                if self._anew:
                    await self._renew()
                await self._ask()
            except (Error, OSError):
                self._anew = True  # not connected: the reconnect, or the next turn, finds it so
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wake.wait()
            if self._asked and loop.time() > self._heard_at + _SILENCE_S:
                self._anew = True

    async def _renew(self) -> None:
        """Leave the old inbox, and with it every request and straggler of before; those are delivered again."""
        if self._sub is not None:
            old, self._sub = self._sub, None
            await self._client.end_subscription(old, deliver=False)
        self._inbox = self._client.new_inbox()
        self._asked = 0
        self._anew = False
        self._sub = await self._client.subscribe(f"{self._inbox}.*", cb=self._callback(self._inbox))

    async def _ask(self) -> None:
        """Ask for what there is room for, in few requests: when nothing is asked for, or half the room is free."""
        free = self._at_once - self._in_hand - self._asked
        if free <= 0 or (self._asked and free * 2 < self._at_once):
            return
        self._asks += 1
        body = {"batch": free, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        self._asked += free
        self._heard_at = asyncio.get_running_loop().time()
        await self._client.publish(self._ask_subject, json.dumps(body).encode(), reply=f"{self._inbox}.{self._asks}")

    def _callback(self, inbox: str) -> Callable[[Msg], Awaitable[None]]:
        async def on_message(msg: Msg) -> None:
            if inbox != self._inbox:
                return
            self._heard_at = asyncio.get_running_loop().time()
            at = place(msg.reply)
            if at is None:
                self._status(msg)
                return
            self._asked = max(0, self._asked - 1)
            self._in_hand += 1
            message = of_log(msg.subject, msg.data, at.seq, at.at_ms, sound=_is_event(msg.headers or {}))
            delivery = WorkDelivery(message, at.tries, self._settler(msg.reply))
            task = asyncio.create_task(self._handle(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return on_message

    def _status(self, msg: Msg) -> None:
        """100: alive. 404, 408: a request ran out. 409, 503: refused or ended, with a reason worth telling."""
        headers = msg.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        left = headers.get("Nats-Pending-Messages")
        if left is not None:
            self._asked = max(0, self._asked - int(left))
        else:
            self._anew = True  # how much of what was asked for is void is unknown
        if status not in ("404", "408"):
            self._refused = True
            if left is None:
                self._report(RuntimeError(f"pull of {self._label}: {status} {headers.get('Description', '')}".strip()))
        self._wake.set()

    async def _handle(self, delivery: WorkDelivery) -> None:
        try:
            if delivery.message.foreign:
                self._report(Foreign(delivery.message.subject, delivery.message.seq))
                await delivery.drop("foreign")
            else:
                await self._handler(delivery)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the work
            self._report(error)
            if not delivery.settled:
                await delivery.retry(_AFTER_FAILURE_S)

    def _settler(self, reply: str) -> Callable[[WorkDelivery, bytes], Awaitable[None]]:
        async def settle(delivery: WorkDelivery, answer: bytes) -> None:
            if delivery.settled:
                raise RuntimeError("a delivery is settled once")
            delivery.settled = True
            self._in_hand -= 1
            self._wake.set()
            with suppress(Error, OSError):
                await self._client.publish(reply, answer)

        return settle
