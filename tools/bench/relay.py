"""The baseline of `bench generate`: a relay without any logic, nats-py and aiohttp, nothing stored, nothing decided."""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
import nats
from nats.aio.msg import Msg


async def serve(url: str, user: str, password: str, provider: str) -> None:
    """Answer `bench.relay` until ended."""
    nc = await nats.connect(url, user=user, password=password)
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512))
    tasks: set[asyncio.Task[None]] = set()

    async def answer(message: Msg) -> None:
        ask = json.loads(message.data)
        body = json.dumps({"model": "ok", "messages": ask["messages"], "max_tokens": 16, "stream": True}).encode()
        text: list[str] = []
        url = f"{provider}/chat/completions"
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    piece = choice["delta"].get("content")
                    if piece:
                        text.append(piece)
                        if ask["stream"]:
                            await nc.publish(message.reply, json.dumps({"type": "delta", "text": piece}).encode())
        await nc.publish(message.reply, json.dumps({"type": "finished", "text": "".join(text)}).encode())

    async def on_message(message: Msg) -> None:
        task = asyncio.create_task(answer(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await nc.subscribe("bench.relay", cb=on_message)
    await nc.flush()
    print("READY", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Arguments: NATS URL, user, password, provider URL."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*sys.argv[1:5]))


if __name__ == "__main__":
    main()
