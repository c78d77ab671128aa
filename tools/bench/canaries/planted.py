"""What the search must find: a canary of its own in every kind of place, and one in every form.

They are put there at the end, through the same means as the real ones, and searched for by the same search.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from understudy.bus.port import Received
from understudy.tools.bench.canaries.forms import HASHES
from understudy.tools.bench.canaries.house import House
from understudy.tools.bench.canaries.rules import Hit, Kind

PLACES: dict[str, Kind] = {
    "state": "file",
    "gone": "file",
    "deleted": "file",
    "log": "file",
    "tmp": "file",
    "core": "file",
    "name": "file",
    "stdout": "output",
    "stderr": "output",
    "metrics": "output",
    "dead": "output",
    "payload": "bus",
    "header": "bus",
    "subject": "bus",
    "memory": "mem",
    "environ": "environ",
    "cmdline": "cmdline",
    "open": "fd",
}
"""Kinds of places. `gone`: a file that was there for a moment; `deleted`: a message that the stream no longer has."""
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
PROCESS = """
import os, sys
held = sys.stdin.readline().strip()
file = open(sys.argv[2], "w+")
file.write(sys.stdin.readline().strip()); file.flush(); os.unlink(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
"""


def places() -> list[str]:
    """Those of this machine: where core dumps are handed to a program, none falls into a folder."""
    return [name for name in PLACES if name != "core" or "/" not in CORE_PATTERN.read_text().strip("\n")]


def variants(text: str) -> dict[str, tuple[str, bytes]]:
    """Every form as encoders of others make it: file name to form and content."""
    data = text.encode()
    found = {f"base64-{n}": ("base64", base64.b64encode(b"x" * n + data + b"y" * n)) for n in range(3)}
    found |= {
        "plain": ("plain", b"before " + data + b" after"),
        "quoted": ("plain", json.dumps(f'"\n\u00e9{text}').encode()),
        "base64-url": ("base64", base64.urlsafe_b64encode(b"??>" + data)),
        "hex": ("hex", data.hex().encode()),
        "hex-upper": ("hex", data.hex().upper().encode()),
        "utf16-le": ("utf16", text.encode("utf-16-le")),
        "utf16-be": ("utf16", text.encode("utf-16-be")),
        "utf32-le": ("utf32", text.encode("utf-32-le")),
        "utf32-be": ("utf32", text.encode("utf-32-be")),
        "json": ("json", "".join(f"\\u{ord(c):04x}" for c in text).encode()),
        "json-upper": ("json", "".join(f"\\u{ord(c):04X}" for c in text).encode()),
        "url": ("url", "".join(f"%{ord(c):02x}" for c in text).encode()),
        "url-upper": ("url", "".join(f"%{ord(c):02X}" for c in text).encode()),
    }
    for name in HASHES:
        digest = hashlib.new(name, data).digest()
        found[f"{name}-raw"] = (name, digest)
        found[f"{name}-hex"] = (name, digest.hex().encode())
        found[f"{name}-base64"] = (name, base64.b64encode(digest))
    return found


def forms(folder: Path, text: str) -> None:
    """One file for each form, among bytes that mean nothing."""
    folder.mkdir()
    for name, (_, content) in variants(text).items():
        (folder / name).write_bytes(b"\x00\x07 " + content + b" \xff\xfe")


def missed(hits: set[Hit]) -> list[str]:
    """Places and forms in which the search did not find what is there."""
    by_place = {(hit.kind, hit.canary) for hit in hits}
    found = [f"place {name}" for name in places() if (PLACES[name], f"planted-{name}") not in by_place]
    by_form = {(Path(hit.who).name, hit.form) for hit in hits if hit.canary == "planted-form"}
    return found + [f"form {name}" for name, (form, _) in variants("x").items() if (name, form) not in by_form]


def total() -> int:
    """How many there are to be found."""
    return len(places()) + len(variants("x"))


# --- places ----------------------------------------------------------------------------------------------------------


def files(house: House, words: dict[str, str]) -> None:
    """A file in the state folder, a line of the log, a file whose name it is."""
    (house.state / "planted.txt").write_text(words["state"])
    (house.state / f"planted-{words['name']}").touch()
    with (house.state / "actors.log").open("a") as log:
        log.write(json.dumps({"event": "planted", "text": words["log"]}) + "\n")


async def on_the_bus(house: House, words: dict[str, str]) -> None:
    """Payload, header, subject; a dead letter; a stored message that is deleted again."""
    operator = await house.operator()
    bus = operator.bus
    await bus.publish("tta.obs.planted", words["payload"].encode())
    await bus.publish("tta.obs.planted", b"x", headers={"X-Planted": words["header"]})
    await bus.publish(f"tta.obs.{words['subject']}", b"x")
    await bus.publish("tta.dead.planted.x", words["dead"].encode())
    ack = await bus.request("tta.trace.planted", words["deleted"].encode(), timeout_s=5)
    order = json.dumps({"seq": json.loads(ack.payload)["seq"], "no_erase": True}).encode()
    await bus.request("$JS.API.STREAM.MSG.DELETE.TTA_TRACE", order, timeout_s=5)
    await operator.close()


@contextlib.asynccontextmanager
async def service(house: House, text: str) -> AsyncGenerator[None, None]:
    """A service whose statistics hold it."""
    operator = await house.operator()

    def answer(received: Received) -> None:
        operator.bus.send(received.reply, text.encode())

    await operator.bus.subscribe("$SRV.STATS", answer)
    await operator.bus.publish("tta.obs.planted", b"")  # the server has the subscription when this is through
    yield
    await operator.close()


async def commands(house: House, words: dict[str, str]) -> None:
    """What a command prints: an answer, and a complaint."""
    await house.command("ask", f"Repeat exactly: {words['stdout']}", "--model", "able@openai")
    await house.command("events", "--since", words["stderr"], good=(2,))


@contextlib.asynccontextmanager
async def process(folder: Path, words: dict[str, str]) -> AsyncGenerator[int, None]:
    """A process that holds one in its memory, its environment, its command line, and a file that has no name left."""
    found = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, words["cmdline"], str(folder / "unlinked"),
        env={**os.environ, "PLANTED": words["environ"]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert found.stdin is not None and found.stdout is not None
    found.stdin.write(f"{words['memory']}\n{words['open']}\n".encode())
    await asyncio.wait_for(found.stdout.readline(), 20)
    yield found.pid
    found.stdin.close()
    await found.wait()


async def crash(folder: Path, text: str) -> None:
    """A process that dumps its memory into the folder."""

    def allow() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    code = "import os, sys; held = sys.stdin.readline(); print('ready', flush=True); sys.stdin.readline()"
    found = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=allow
    )
    assert found.stdin is not None and found.stdout is not None
    found.stdin.write(text.encode() + b"\n")
    await asyncio.wait_for(found.stdout.readline(), 20)
    found.send_signal(signal.SIGABRT)
    await found.wait()


@contextlib.contextmanager
def in_tmp(text: str):
    """A file in the system's folder for temporary files."""
    with tempfile.NamedTemporaryFile(prefix="understudy-planted-") as file:
        file.write(text.encode())
        file.flush()
        yield
