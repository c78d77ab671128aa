"""Reading the files of benchmark suites: what the benchmarker asks of its edge."""

from __future__ import annotations

from msgspec import Struct


class ReadSuite(Struct, frozen=True):
    """Read the file of a suite, by its name or its path; comes back as `SuiteRead`."""

    key: str
    source: str


class SuiteRead(Struct, frozen=True):
    """The file, and the shipped ones that it may include; or why there is none."""

    at_ms: float
    key: str
    content: bytes
    shipped: dict[str, bytes]
    problem: str = ""
