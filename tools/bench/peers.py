"""The bare processes beside which `bench bus` measures ours: nats-py and uvloop, and as little else as can be.

    echo     answers `bench.echo` with as many bytes as it is told
    relay    passes `bench.hop.<subject>` on to `<subject>`
    speaker  stands for a runner: streams text that carries the time it was sent at, to whoever asks for it

The speaker answers `runner.run` of one model (through our selector), and `bench.speak` (straight to the reader, or by
way of the bare relay).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from understudy.messages.generate import Usage
from understudy.messages.run import ModelLoad, RunEnded, RunnerBeat, RunStarted, RunText
from understudy.messages.slugs import slug
from understudy.messages.wire import encode

MODEL = "bench/spoken"
BEAT_S = 0.25


async def echo(nc: Client, reply_bytes: int) -> None:
    """In a queue group, so that as many of them share the work as there are selectors."""
    answer = b"x" * reply_bytes

    async def on_message(message: Msg) -> None:
        await nc.publish(message.reply, answer)

    await nc.subscribe("bench.echo", queue="echo", cb=on_message)


async def relay(nc: Client) -> None:
    """One publish per message, nothing else."""

    async def on_message(message: Msg) -> None:
        await nc.publish(message.subject[len("bench.hop.") :], message.data)

    await nc.subscribe("bench.hop.>", cb=on_message)


class Speaker:
    """Streams `chunks` pieces of text per second."""

    def __init__(self, nc: Client, chunks_per_s: float, stream_s: float) -> None:
        self._nc, self._gap_s, self._count = nc, 1 / chunks_per_s, int(chunks_per_s * stream_s)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take orders, and beat as a runner does."""
        await self._nc.subscribe(f"tta.ask.runner.run.fake.{slug(MODEL)}", cb=self._asked)
        await self._nc.subscribe("bench.speak", cb=self._asked)
        self._keep(self._beat())

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _asked(self, message: Msg) -> None:
        ask = json.loads(message.data)
        self._keep(self._speak(ask.get("to", message.reply), ask["run_id"], ask.get("attempt", 0)))

    async def _beat(self) -> None:
        beat = encode(RunnerBeat(instance="speaker", models={MODEL: ModelLoad(slots=10_000, in_flight=0)}))
        while True:
            await self._nc.publish("tta.obs.runner.beat.speaker", beat)
            await asyncio.sleep(BEAT_S)

    async def _speak(self, to: str, run_id: str, attempt: int) -> None:
        await self._nc.publish(to, encode(RunStarted(run_id=run_id, attempt=attempt, instance="speaker")))
        due = time.perf_counter() + (hash(run_id) % 1000) / 1000 * self._gap_s  # streams are not in step
        for n in range(self._count):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += self._gap_s
            text = RunText(run_id=run_id, attempt=attempt, instance="speaker", n=n, text=f" {time.time_ns()}.")
            await self._nc.publish(to, encode(text))
        usage = Usage(prompt_tokens=1, completion_tokens=self._count)
        end = RunEnded(run_id=run_id, attempt=attempt, pieces=self._count, finish_reason="stop", usage=usage)
        await self._nc.publish(to, encode(end))


async def serve(args: argparse.Namespace) -> None:
    """Connect, serve one role, say READY."""
    nc = await nats.connect(args.url, user=args.user, password=args.password)
    match args.role:
        case "echo":
            await echo(nc, args.reply_bytes)
        case "relay":
            await relay(nc)
        case _:
            speaker = Speaker(nc, args.chunks_per_s, args.stream_s)
            await speaker.start()
    await nc.flush()
    print("READY", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run by `bench bus`."""
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["echo", "relay", "speaker"])
    parser.add_argument("url")
    parser.add_argument("user")
    parser.add_argument("password")
    parser.add_argument("--reply-bytes", type=int, default=0)
    parser.add_argument("--chunks-per-s", type=float, default=40)
    parser.add_argument("--stream-s", type=float, default=4)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
