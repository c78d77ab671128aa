"""`bench realserver` judges lists: what a server has, no more and no less. The servers here are fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from understudy.bus.client import Client
from understudy.tools.bench import realserver_lists as lists
from understudy.tools.bench.stage import running, topology_on
from understudy.tools.fake.lists import OllamaModel
from understudy.tools.fake.server import FakeProvider

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
DIALECTS = ("ollama", "openai")


class Stage(NamedTuple):
    """A server that has `tiny:latest`, and a component of what reads its lists."""

    root: str
    client: Client

    async def judged(self, way: str, model: str = "tiny", **windows: int) -> str:
        truth = await lists.said(self.root, "openai" if way == lists.ELSEWHERE else way)
        return await lists.listed(self.client, way, model, truth | windows)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with FakeProvider() as server, FakeProvider() as other:
        server.lists.ollama = [OllamaModel(name="tiny:latest", context_length=2_048)]
        server.lists.openai = [{"id": "tiny:latest"}]
        providers = {"fake": {"kind": "openai", "url": other.url}}
        providers |= lists.providers(server.root, DIALECTS, other.url)
        async with (
            running(topology_on(other.url, {"ok": {}}, providers=providers)) as supervisor,
            await Client.connect(supervisor.url) as client,
        ):
            yield Stage(server.root, client)


@pytest.mark.parametrize("way", DIALECTS)
async def test_all_that_the_server_has_and_nothing_else(stage: Stage, way: str) -> None:
    assert await stage.judged(way) == "ok"
    assert (await stage.judged(way, another=0)).startswith("shows "), "it lacks a model"
    assert (await stage.judged(way, "other")).startswith("shows "), "its own model is not among them"
    assert (await stage.judged(way, **{"tiny:latest": 7})).startswith("shows "), "another window"


async def test_a_list_that_lacks_the_model_is_the_control(stage: Stage) -> None:
    assert (await stage.judged(lists.ELSEWHERE)).startswith("shows ")


async def test_a_model_is_put_where_hugging_face_s_own_code_finds_it(root: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    lists.into_hub(root / "tools/tiny/demo/lead", tmp_path, "understudy/lead")
    (repo,) = hub.scan_cache_dir(tmp_path).repos
    files = {file.file_name for file in repo.refs["main"].files}
    assert repo.repo_id == "understudy/lead" and {"config.json", "model.safetensors"} <= files
