"""Everything that passes the bus, and everything that the system says about itself, to be searched afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import nats

from understudy.tools.bench.canaries import rules
from understudy.tools.bench.canaries.forms import Search
from understudy.tools.bench.canaries.house import House
from understudy.tools.bench.canaries.rules import Hit

COMMANDS = (
    ("status", "--json"),
    ("status",),
    ("models", "--all", "--json"),
    ("events", "--json"),
    ("budget", "--json"),
    ("consent", "list", "--json"),
    ("keys", "list", "--json"),
    ("replay", "--json"),
)
"""What people and monitors read. Each may say that something is not ready."""
QUICK = (("status", "--json"), ("events", "--json"))
STATS_S = 0.7
BY_DESIGN = {"text", "id"}
SEPARATOR = b"\x00\n"


class Recorder:
    """All subjects, as the operator may hear them."""

    def __init__(self) -> None:
        self.messages, self.by_subject = 0, dict[str, list[bytes]]()
        self._nc: Any = None

    async def begin(self, house: House) -> None:
        """Listen; messages of an outage of the server are nowhere to be heard."""
        about = house.run_file()
        self._nc = await nats.connect(
            about["url"], user="operator", password=about["password"], max_reconnect_attempts=-1, error_cb=_ignore
        )
        await self._nc.subscribe(">", cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self._nc.flush()

    async def end(self) -> None:
        """All that was said before has been heard."""
        await self._nc.drain()

    async def _on_message(self, message: Any) -> None:
        head = json.dumps(message.headers).encode() if message.headers else b""
        self.messages += 1
        data = SEPARATOR.join((message.subject.encode(), message.reply.encode(), head, message.data))
        self.by_subject.setdefault(message.subject, []).append(data)

    def hits(self, search: Search) -> set[Hit]:
        """By subject. Blocks."""
        families: dict[str, list[bytes]] = {}
        for subject, messages in self.by_subject.items():
            families.setdefault(family(subject), []).extend(messages)
        found: set[Hit] = set()
        for name, messages in families.items():
            own = BY_DESIGN.intersection(rules.may_carry(name))
            look = search.encodings if own else search.all  # whoever may say an id may say its hash
            found |= {Hit("bus", name, canary, form) for canary, form in look(SEPARATOR.join(messages))}
        return found


def family(subject: str) -> str:
    """Inboxes and keys differ with every message; what stands before them does not."""
    words = subject.split(".")
    return ".".join(words[:1] if words[0].startswith("_INBOX") else words[:4])


async def metrics(house: House) -> bytes:
    """What the services answer to STATS, INFO and PING, and the dead letters."""
    operator, heard = await house.operator(), list[bytes]()
    await operator.bus.subscribe("_INBOX.canaries.*", lambda received: heard.append(received.payload))
    for verb in ("STATS", "INFO", "PING"):  # an inbox for each: actors may answer there once
        await operator.bus.publish(f"$SRV.{verb}", b"", reply=f"_INBOX.canaries.{verb}")
    await asyncio.sleep(STATS_S)
    dead = await operator.bus.request("$JS.API.STREAM.INFO.TTA_DEAD", b'{"subjects_filter":">"}', timeout_s=5)
    count = json.loads(dead.payload)["state"]["last_seq"]
    for seq in range(1, count + 1):
        letter = await operator.bus.request("$JS.API.STREAM.MSG.GET.TTA_DEAD", b'{"seq":%d}' % seq, timeout_s=5)
        found = json.loads(letter.payload).get("message", {})
        heard.append(found.get("subject", "").encode() + SEPARATOR + base64.b64decode(found.get("data", "")))
    await operator.close()
    return SEPARATOR.join(heard)


async def compressed(house: House) -> list[str]:
    """Streams whose blocks are compressed, which a search of files cannot look into."""
    operator = await house.operator()
    answer = json.loads((await operator.bus.request("$JS.API.STREAM.LIST", b"", timeout_s=5)).payload)
    await operator.close()
    return [s["config"]["name"] for s in answer["streams"] if s["config"].get("compression", "none") != "none"]


async def _ignore(_: Exception) -> None:
    """The server is killed in between."""
