"""Tiny models, and engines that are stopped at the end; imported late, so that without torch the tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actors.runner.local.engines import ARCHS, Running
from understudy.tools.tiny import make


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a random model per architecture."""
    base = tmp_path_factory.mktemp("models")
    return {arch: make.random_model(arch, 3, base / arch) for arch in ARCHS}


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Starts engines and stops them at the end."""
    from understudy.actors.runner.local.engine import Engine

    started: list[Running] = []

    def start(folder: Path, *, slots: int = 4, context: int = 512, begin: bool = True, **more: Any) -> Running:
        running = Running.__new__(Running)
        engine = Engine(folder, slots=slots, max_context_tokens=context, emit=lambda e: running.emit(e), **more)
        running.__init__(engine)
        engine.load()
        running.record()
        started.append(running)
        if begin:
            engine.start()
        return running

    yield start
    for running in started:
        assert running.engine.stop()


@pytest.fixture(params=["slots", "generate"])
def both(request: pytest.FixtureRequest, run: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Running]:
    """Like `run`, once with the slot loop and once with generate()."""
    from understudy.actors.runner.local import engine as engine_module

    if request.param == "generate":
        monkeypatch.setattr(engine_module, "why_not", lambda model, slots, context: (None, "layers"))

    def start(*args: Any, **more: Any) -> Running:
        running = run(*args, **more)
        assert running.engine.info.path == request.param
        return running

    return start
