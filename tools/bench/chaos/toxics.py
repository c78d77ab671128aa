"""A toxiproxy between nats-server and everybody else: latency, cut and half-open connections, on demand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp

from understudy.bus.server import free_port
from understudy.tools.bench.chaos.load import Load, progress
from understudy.tools.bench.chaos.strikes import WAIT_STREAMS_S, Strike, until

BESIDE = Path("../shared/bin/toxiproxy-server")
SIDES = ("actors", "clients")


def binary() -> Path | None:
    """`TOXIPROXY` names it; else it is looked for beside the checkout."""
    named = Path(os.environ.get("TOXIPROXY", str(BESIDE)))
    return named.resolve() if named.exists() else None


class Proxy:
    """Two proxies to one nats-server, `actors` and `clients`, steered over toxiproxy's HTTP API."""

    def __init__(self, session: aiohttp.ClientSession, api: str, ports: dict[str, int]) -> None:
        self._session, self._api, self.ports = session, api, ports

    def url(self, side: str) -> str:
        """Where this side connects."""
        return f"nats://127.0.0.1:{self.ports[side]}"

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """One call of the API. Raises aiohttp.ClientError."""
        async with self._session.request(method, f"{self._api}{path}", json=body) as response:
            response.raise_for_status()

    async def strike(self, word: str, side: str, lasting_s: float) -> None:
        """`latency` and `half-open` last, `cut` closes every connection and lets new ones in after a moment."""
        if word == "cut":
            await self.call("POST", f"/proxies/{side}", {"enabled": False})
            await asyncio.sleep(0.3)
            await self.call("POST", f"/proxies/{side}", {"enabled": True})
            return
        kind, attributes = (
            ("latency", {"latency": 60, "jitter": 40}) if word == "latency" else ("timeout", {"timeout": 0})
        )
        for stream in ("upstream", "downstream"):
            toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
            await self.call("POST", f"/proxies/{side}/toxics", toxic)
        await asyncio.sleep(lasting_s)
        for stream in ("upstream", "downstream"):
            await self.call("DELETE", f"/proxies/{side}/toxics/{kind}-{stream}")

    async def run(self, load: Load, strikes: list[Strike], min_streams: int, lasting_s: float) -> None:
        """Carry a schedule out, one strike at a time."""
        for strike in strikes:
            await asyncio.sleep(strike.pause_s)
            await until(lambda: load.mid_text() >= min_streams, WAIT_STREAMS_S)
            strike.at, strike.mid_text, strike.victim = load.now(), load.mid_text(), strike.kind
            progress(f"  {strike.at:6.1f} s  {strike.word} for {strike.kind} while {strike.mid_text} are mid-text")
            await self.strike(strike.word, strike.kind, lasting_s)
            strike.until, strike.back = load.now(), True


@contextlib.asynccontextmanager
async def proxied(program: Path, server_port: int) -> AsyncGenerator[Proxy, None]:
    """toxiproxy in front of a nats-server on loopback."""
    api = free_port()
    child = await asyncio.create_subprocess_exec(
        str(program), "-host", "127.0.0.1", "-port", str(api), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ports = {side: free_port() for side in SIDES}
    try:
        async with aiohttp.ClientSession() as session:
            proxy = Proxy(session, f"http://127.0.0.1:{api}", ports)
            await _answering(proxy)
            for side, port in ports.items():
                listen, upstream = f"127.0.0.1:{port}", f"127.0.0.1:{server_port}"
                await proxy.call("POST", "/proxies", {"name": side, "listen": listen, "upstream": upstream})
            yield proxy
    finally:
        child.kill()
        await child.wait()


async def _answering(proxy: Proxy) -> None:
    for _ in range(100):
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await proxy.call("GET", "/version")
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("toxiproxy does not answer")
