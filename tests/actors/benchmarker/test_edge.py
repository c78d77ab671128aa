"""The edge: suites by name and by path, and what this machine is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from understudy.actors.benchmarker import edge, suite
from understudy.messages.step import Input
from understudy.messages.suites import ReadSuite, SuiteRead


async def read(folder: Path, source: str) -> SuiteRead:
    heard: asyncio.Queue[Input] = asyncio.Queue()
    one = edge.BenchmarkerEdge(folder, lambda: 7.0)
    await one.start(heard.put_nowait)
    one.perform(ReadSuite("key", source))
    found = await asyncio.wait_for(heard.get(), 10)
    await one.stop()
    assert isinstance(found, SuiteRead) and found.key == "key"
    return found


async def test_a_shipped_suite_by_its_name(tmp_path: Path) -> None:
    found = await read(tmp_path, "questions")
    assert not found.problem and found.content == found.shipped["questions"]
    assert set(found.shipped) >= {"standard", "speed", "therapeutic"}


async def test_a_suite_of_the_operator_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b"text")
    assert (await read(tmp_path, "./mine.jsonl")).content == b"text"
    assert (await read(Path("/"), str(tmp_path / "mine.jsonl"))).content == b"text"


async def test_a_file_without_an_end_is_cut_and_refused_by_its_size(tmp_path: Path) -> None:
    found = await read(tmp_path, "/dev/zero")
    assert len(found.content) == edge.MOST_BYTES + 1 > suite.MOST_BYTES


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert (await read(tmp_path, "qestions")).problem.startswith("no suite 'qestions'; there are: json, mathematics")
    assert (await read(tmp_path, "./none.jsonl")).problem == "./none.jsonl: No such file or directory"
    assert (await read(tmp_path, "./")).problem == "./: Is a directory"


async def test_what_is_no_path_or_never_ends_is_said_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert (await read(tmp_path, "./pipe")).problem == "./pipe: Is a pipe"
    assert (await read(tmp_path, "./a\0b")).problem == r"'./a\x00b': no path that a file could have"


def test_the_machine() -> None:
    found = edge.hardware()
    assert found["cpu"] and found["cores"] >= found["usable_cores"] >= 1 and found["memory_bytes"] > 2**28
    assert isinstance(found["gpus"], list)
