"""A registry that a real Ollama pulls from, on loopback: one model, over real sockets, as slowly as is wanted.

What Ollama 0.17.4 asks for: the manifest, then of each blob a HEAD (its size), a GET that is answered with a redirect
to another host name, and that with `Range`, whole chunks at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 16_384
OLLAMA = "application/vnd.ollama.image.model"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """`name` pulls it. `pause_s`: between two chunks of the weights. `ranges`: which bytes of them were asked for."""

    def __init__(self, weights: bytes) -> None:
        facts = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "file_type": "F32"}
        diffs = {"type": "layers", "diff_ids": [digest_of(weights)]}
        config = json.dumps({**facts, "architecture": "amd64", "os": "linux", "rootfs": diffs}).encode()
        self.blobs = {digest_of(weights): weights, digest_of(config): config}
        self.weights, self.bytes = digest_of(weights), len(weights) + len(config)
        layers = [{"mediaType": OLLAMA, "digest": self.weights, "size": len(weights)}]
        about = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config)}
        config_of = {**about, "digest": digest_of(config)}
        manifest = {"schemaVersion": 2, "mediaType": DOCKER, "config": config_of, "layers": layers}
        self.manifest = json.dumps(manifest).encode()
        self.pause_s = 0.0
        self.ranges: list[tuple[int, int]] = []
        self.cut = 0  # answers whose reader left
        self.port = 0

    @property
    def name(self) -> str:
        """As an operator writes it."""
        return f"http://127.0.0.1:{self.port}/library/story:1b"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Registry]:
        """On a free port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": self}))
        server.daemon_threads, self.port = True, server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        blob = self.registry.blobs.get(self.path.rpartition("/")[2])
        if self.path == "/v2/library/story/manifests/1b":
            self._give(200, self.registry.manifest, {"Content-Type": DOCKER})
        elif blob is None:
            self._give(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})
        elif self.command == "HEAD":
            self._give(200, blob, {})
        elif self.path.startswith("/v2/"):
            self._give(307, b"", {"Location": f"http://localhost:{self.registry.port}{self.path[3:]}"})
        else:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            begin, end = (int(found[1]), int(found[2])) if found else (0, len(blob) - 1)
            if self.path.endswith(self.registry.weights):
                self.registry.ranges.append((begin, end))
            about = {"Content-Range": f"bytes {begin}-{end}/{len(blob)}"}
            self._give(206, blob[begin : end + 1], about)

    def _give(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for begin in range(0, len(body), CHUNK):
                self.wfile.write(body[begin : begin + CHUNK])
                if len(body) > CHUNK:
                    time.sleep(self.registry.pause_s)
        except OSError:
            self.registry.cut += 1
