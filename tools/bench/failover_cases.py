"""What `bench failover` asks: every fault of the fake provider, and every kind of successor behind a broken text.

A case is a fault and the model behind it. Each is asked streamed and not, on two model ids of its own (`500@ok-s`,
`500@ok-w`). The faults strike every other request, so that a healthy answer closes the breaker between two asks.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

from understudy.messages.topology import Topology
from understudy.tools.bench.stage import topology_on
from understudy.tools.fake.script import Fault, built_in_faults

LIMIT_MS = 400
"""First token and stall, so that hang and stall are over soon."""
PATIENT_MS = 15_000
"""The same for the task that kills and stops: there the death is to be noticed, not the silence."""
CHUNKS = 48
MODES = ("s", "w")
"""Streamed, and as one whole reply."""

SUCCESSORS: dict[str, str] = {
    "ok": "native",
    "late": "native",  # passes, and misbehaves only with longer text
    "instructed": "instructed",
    "instructed-repeat": "instructed",  # its overlap is trimmed
    "restart": "none",
    "ignore": "none",
    "preamble": "none",
    "repeat": "none",
    "eat-space": "none",
}
"""Behaviour of the fake, and what its probe must find."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A fault, the model behind it, and what must happen."""

    fault: str
    successor: str = "ok"
    attempts: int = 2
    end: str = "finished"  # or the code of `failed`
    finish: str = "stop"
    whole: bool = True  # the text is the script's whole
    seam: str | None = None  # `continue` or `restart`, visible
    limited: bool = False  # bounded by a timeout, not by the fault itself
    judged: bool = True

    @property
    def trips(self) -> bool:
        """Does the fault count against the model, so that its breaker must be closed before the next ask?"""
        return self.attempts > 1 and self.fault != "refused"

    def model(self, mode: str, n: int) -> str:
        """The id asked for the n-th time; one that never answers gets a new one each time."""
        return f"{self.fault}@{n}" if self.fault == "refused" else f"{self.fault}@{self.successor}-{mode}"


STATUS = ("401", "402", "403", "404", "408", "429", "429-date", "429-ms", "500", "502", "503", "529")
FIRST = ("error-first", "empty", "refused")
BROKEN = ("reset", "cut", "cut-word", "malformed", "error-mid", "stall")
LATE = ("reset-late", "cut-late")
"""Broken so late that the successor `late` no longer continues."""
CASES: tuple[Case, ...] = (
    *(Case(fault=fault) for fault in (*STATUS, *FIRST)),
    *(Case(fault=fault, limited=True) for fault in ("hang", "silent")),
    *(Case(fault=fault, attempts=1) for fault in ("no-usage", "split-utf8", "comments", "wrong-model")),
    Case(fault="length", attempts=1, finish="length", whole=False),
    Case(fault="refusal", attempts=1, finish="refusal", whole=False),
    *(Case(fault=fault, attempts=1, end="caller_fault") for fault in ("400", "413", "422")),
    Case(fault="context-too-long", attempts=1, end="context_too_long"),
    *(
        Case(
            fault=fault,
            successor=successor,
            seam="restart" if continues == "none" else "continue",
            limited=fault == "stall",
        )
        for fault in BROKEN
        for successor, continues in SUCCESSORS.items()
    ),
    *(Case(fault=fault, successor="late", seam="continue", judged=False) for fault in LATE),
)


def faults() -> dict[str, Any]:
    """The faults file: the built-in ones, striking every other request where they count against the model."""
    table = built_in_faults()
    table["reset-late"] = Fault(docs="Resets after 40 content chunks.", reset_after=40)
    table["cut-late"] = Fault(docs="Ends the body after 40 content chunks.", cut_after=40)
    tripping = {case.fault for case in CASES if case.trips}
    return {name: {**msgspec.to_builtins(table[name]), "fail_every": 2} for name in sorted(tripping)}


@contextlib.contextmanager
def faults_file() -> Generator[Path, None, None]:
    """The same, as the fake provider reads it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(faults()))
        file.flush()
        yield Path(file.name)


def successor_id(successor: str) -> str:
    """The model behind the faulty ones; all cases share it, as it never fails."""
    return f"{successor}@next"


def topology(url: str, asks: int) -> Topology:
    """The faulty models in front, their successors behind with `continues: probe`, and a pair to kill."""
    models: dict[str, dict[str, Any]] = {}
    for case in CASES:
        provider = {"provider": "dead"} if case.fault == "refused" else {}
        for mode in MODES:
            for n in range(asks if case.fault == "refused" else 1):
                models[case.model(mode, n)] = {"fallbacks": [successor_id(case.successor)], **provider}
    models |= {successor_id(name): {"continues": "probe"} for name in SUCCESSORS}
    models["ok-slow@frail"] = {"provider": "frail", "fallbacks": ["ok-slow@firm"]}
    models["ok-slow@firm"] = {"continues": "probe"}
    urls = {"fake": url, "frail": url, "dead": "http://127.0.0.1:9/v1"}
    latency = {
        "interactive": {"deadline_ms": 20_000, "first_token_ms": LIMIT_MS, "stall_ms": LIMIT_MS},
        "patient": {"deadline_ms": 40_000, "first_token_ms": PATIENT_MS, "stall_ms": PATIENT_MS},
    }
    return topology_on(
        url,
        models,
        providers={name: {"kind": "openai", "url": one, "max_connections": 512} for name, one in urls.items()},
        latency=latency,
        tasks={
            "general": {"latency": "interactive", "max_tokens": 256},
            "patient": {"latency": "patient", "max_tokens": 256},
        },
    )
