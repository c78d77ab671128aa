"""A key-value bucket with a limit of age: put, get, purge by prefix. `provision` makes the stream below it."""

from __future__ import annotations

from understudy.bus.guarded import GuardedClient
from understudy.bus.nats_log import ApiRefused, api, log_publish, raw_request, refusal
from understudy.bus.port import BusDown, NoResponders


class Bucket:
    """Keys are tokens joined by dots, so that a prefix can be purged. Raises BusError where the server refuses."""

    def __init__(self, client: GuardedClient, name: str) -> None:
        self._client, self._stream, self._subject = client, f"KV_{name}", f"$KV.{name}"

    async def get(self, key: str, *, timeout_s: float) -> bytes | None:
        """The newest value; None where there is none (any longer). Raises BusDown."""
        subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subject}.{key}"
        try:
            answer = await raw_request(self._client, subject, b"", timeout_s=timeout_s)
        except NoResponders as error:
            raise BusDown(f"{self._stream} does not answer") from error
        headers = answer.headers or {}
        there = "Nats-Sequence" in headers and "KV-Operation" not in headers
        return answer.data if there else None

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> None:
        """Set a value; returns when the server has it. Raises BusDown, TooLarge, ApiRefused."""
        subject = f"{self._subject}.{key}"
        answer = await log_publish(self._client, subject, value, {}, timeout_s=timeout_s)
        if answer is None:
            raise ApiRefused(0, f"what answered on {subject} is not a stream")
        if answer.error is not None:
            raise refusal(answer.error)

    async def purge(self, prefix: str, *, timeout_s: float) -> int:
        """Remove every key below a prefix; how many there were. Raises BusDown, ApiRefused."""
        order = {"filter": f"{self._subject}.{prefix}.>"}
        return int((await api(self._client, f"STREAM.PURGE.{self._stream}", order, timeout_s=timeout_s))["purged"])
