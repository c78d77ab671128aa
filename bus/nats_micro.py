"""A NATS micro service that answers inboxes only.

The server checks who publishes on a subject, never which reply subject a message names, and nats-py's own service
answers wherever that points: a guest would write with the service's rights, into the log for one.
"""

from __future__ import annotations

from nats.aio.msg import Msg
from nats.micro.service import Endpoint, Service

from understudy.bus.subjects import is_guest_inbox


class MicroService(Service):
    """nats-py's service; PING, INFO and STATS are answered in components' inboxes alone."""

    async def _handle_ping_request(self, msg: Msg) -> None:
        if is_guest_inbox(msg.reply):
            await super()._handle_ping_request(msg)

    async def _handle_info_request(self, msg: Msg) -> None:
        if is_guest_inbox(msg.reply):
            await super()._handle_info_request(msg)

    async def _handle_stats_request(self, msg: Msg) -> None:
        if is_guest_inbox(msg.reply):
            await super()._handle_stats_request(msg)


def count(endpoint: Endpoint, took_ns: int) -> None:
    """Micro's own statistics, which it keeps where we do not pass."""
    endpoint._num_requests += 1  # pyright: ignore[reportPrivateUsage]
    endpoint._processing_time += took_ns  # pyright: ignore[reportPrivateUsage]
    average = endpoint._processing_time // endpoint._num_requests  # pyright: ignore[reportPrivateUsage]
    endpoint._average_processing_time = average  # pyright: ignore[reportPrivateUsage]
