"""How an actor takes asks: whom it answers, what it can read; everything else is refused before the step sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from understudy.actors.host.core_port import Core
from understudy.actors.host.logs import Log
from understudy.actors.host.permissions import GUEST_FAMILIES, Seat, expand
from understudy.bus.port import Bus, BusError, Received, Subscription, TooLarge
from understudy.bus.subjects import is_guest_inbox, is_inbox
from understudy.messages.base import Ask, Message
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import WireError, decode_as, encode


class Intake:
    """Subscribes to a seat's asks; `asked` gets what can be read, with the message it came in.

    `max_bytes` bounds what components may ask; `send(subject, payload)` carries refusals. `askers`: see `Host`.
    """

    def __init__(
        self,
        app: str,
        seat: Seat,
        *,
        max_bytes: int,
        asked: Callable[[Received, Ask | Message], None],
        send: Callable[[str, bytes], None],
        log: Log,
        askers: tuple[str, ...] = (),
    ) -> None:
        self._app, self._seat, self._max_bytes = app, seat, max_bytes
        self._asked, self._send, self._log = asked, send, log
        self._askers = tuple(f"{inbox}." for inbox in askers)

    async def open(self, bus: Bus, core: Core, plan: ActorPlan) -> tuple[Subscription | None, list[Subscription]]:
        """Take asks: shared ones as a micro service, those addressed to this instance by plain subscriptions."""
        shared: dict[str, Callable[[Received], None]] = {}
        own: list[Subscription] = []
        for name in plan.asks:
            take = partial(self._take, core.ASKS[name])
            for expanded in expand(name, self._seat):
                subject = f"{self._app}.ask.{expanded}"
                if "{instance}" in name:
                    own.append(await bus.subscribe(subject, take))
                else:
                    shared[subject] = take
        if not shared:
            return None, own
        about = (core.__doc__ or "").split("\n")[0]
        return await bus.serve(self._seat.actor, "0.1.0", about, shared), own

    def _take(self, cls: type[Ask | Message], received: Received) -> None:
        from_guest = received.subject.split(".")[2] in GUEST_FAMILIES
        is_answered = self._is_guests if from_guest else is_inbox
        if received.reply and not is_answered(received.reply):
            # The server lets everybody name any reply subject, and we may publish where a guest may not: in the log.
            prefix = received.reply.partition(".")[0][:32]
            self._log.line("reply_refused", subject=received.subject, prefix=prefix)
            return
        size = len(received.payload)
        if from_guest and size > self._max_bytes:
            text = f"{size} bytes; at most {self._max_bytes} are taken. {ADVICE['too_large']}"
            self._refuse(received, Failed(code="too_large", text=text, path="$"))
            return
        try:
            message = decode_as(cls, received.payload)
        except WireError as error:
            text = f"{error.text} {ADVICE['invalid']}"
            self._refuse(received, Failed(code="invalid", text=text, path=error.path))
            return
        self._asked(received, message)

    def not_answered(self, subject: str, error: BusError, size: int) -> None:
        """An answer that no message can hold: whoever waits for it is told so."""
        if isinstance(error, TooLarge) and is_inbox(subject):
            text = f"The answer has {size} bytes, more than the bus takes: ask for less at a time."
            self._send(subject, encode(Failed(code="too_large", text=text)))

    def _is_guests(self, reply: str) -> bool:
        """A component's inbox, or one of an actor that the topology has ask as components do. A guest who names that
        would have to know the id of its process, which only its own asks hold."""
        return is_guest_inbox(reply) or reply.startswith(self._askers)

    def _refuse(self, received: Received, failed: Failed) -> None:
        if received.reply:
            self._send(received.reply, encode(failed))
