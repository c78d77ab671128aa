"""A TCP proxy that counts what passes towards the server: new connections and bytes."""

from __future__ import annotations

import asyncio
from typing import Self


class Counter:
    """In front of one server, on a free port; `port` is known once it is entered."""

    def __init__(self, port: int) -> None:
        self.connections = self.bytes = 0
        self.port = 0
        self._behind = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._behind)
        for work in (self._pass(reader, ahead, True), self._pass(behind, writer, False)):
            task = asyncio.create_task(work)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        try:
            while data := await reader.read(65_536):
                self.bytes += len(data) if counted else 0
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
