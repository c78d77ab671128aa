"""A real Ollama with one tiny random model, for tests; where its program is not at hand they are skipped."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 30.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


@contextlib.contextmanager
def serving(shared_bin: Path, home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server that has the model `tiny`, and its process."""
    address = f"127.0.0.1:{free_port()}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OLLAMA_HOST": address}
    environment["OLLAMA_MODELS"] = str(home / "models")
    run: Any = {"cwd": home, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, str(shared_bin / "tiny_gguf.py"), "tiny.gguf", "7"], cwd=home, check=True)
    (home / "Modelfile").write_text("FROM ./tiny.gguf\n")
    server = subprocess.Popen([str(shared_bin / "ollama"), "serve"], **run)
    try:
        for _ in range(int(START_S * 20)):
            try:
                get(f"http://{address}/api/version")
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.05)
        subprocess.run([str(shared_bin / "ollama"), "create", "tiny", "-f", "Modelfile"], **run, check=True)
        yield f"http://{address}", server
    finally:
        server.terminate()
        server.wait(20)
