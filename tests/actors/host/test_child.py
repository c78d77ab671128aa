"""What an actor's process writes where: lines for the supervisor, and everything else into the log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from understudy.actors.host.logs import Log


def test_what_a_library_prints_goes_into_the_log() -> None:
    code = (
        "import os\n"
        "from understudy.actors.host import child\n"
        "child.keep_stdout()\n"
        "print('hello', flush=True)\n"
        "os.write(1, b'from C\\n')\n"
        "child._say(ready=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert done.stdout == b'{"ready":true}\n' and done.stderr == b"hello\nfrom C\n"


def test_a_full_disk_loses_log_lines_and_ends_nobody() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        log = Log("a", "a-1", full)
        for n in range(200):
            log.line("said", n=n)
        log.flush()
