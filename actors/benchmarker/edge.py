"""The benchmarker's edge: the files of suites, and what this machine is.

Files are read in a thread: an operator's may lie on a disk that sleeps. Nothing is kept open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from understudy.messages.step import Input
from understudy.messages.suites import ReadSuite, SuiteRead

MOST_BYTES = 4_000_000


class BenchmarkerEdge:
    """Performs `ReadSuite`."""

    def __init__(self, folder: Path, now_ms: Callable[[], float]) -> None:
        """`folder`: what the paths of an operator's suites are relative to."""
        self._folder, self._now_ms = folder, now_ms
        self._feed: Callable[[Input], None] = lambda _: None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """What the scores were measured on."""
        self._feed = feed
        return await asyncio.to_thread(hardware)

    def perform(self, effect: ReadSuite) -> None:
        """Begin."""
        task = asyncio.get_running_loop().create_task(self._read(effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, effect: ReadSuite) -> None:
        content, problem = b"", ""
        shipped = await asyncio.to_thread(shipped_suites)
        try:
            if "/" in effect.source:
                content = await asyncio.to_thread(_bounded, self._folder / effect.source)
            elif effect.source in shipped:
                content = shipped[effect.source]
            else:
                problem = f"no suite {effect.source!r}; there are: {', '.join(sorted(shipped))}, or a path with a slash"
        except OSError as error:
            problem = f"{effect.source}: {error.strerror or type(error).__name__}"
        except ValueError:  # a NUL, half of a surrogate pair
            problem = f"{effect.source!a}: no path that a file could have"
        self._feed(SuiteRead(self._now_ms(), effect.key, content, shipped, problem))

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def shipped_suites() -> dict[str, bytes]:
    """The suites of this package, by name."""
    folder = files(__package__ or "") / "suites"
    return {
        one.name.removesuffix(".jsonl"): one.read_bytes() for one in folder.iterdir() if one.name.endswith(".jsonl")
    }


def _bounded(path: Path) -> bytes:
    if path.is_fifo():
        raise OSError(0, "Is a pipe")  # to open one waits for whoever writes it, and a thread cannot be ended
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def hardware() -> dict[str, Any]:
    """CPU, cores, memory, GPUs by NVML where pynvml is there: names and sizes, nothing that tells machines apart."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "gpus": _gpus(),
    }
    with contextlib.suppress(ValueError, OSError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """By NVML; none where it is not there, or says no."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - its errors are a class of the module that may be missing
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(one)) for one in handles]
    except Exception:  # noqa: BLE001 - as above
        return []
    finally:
        pynvml.nvmlShutdown()
