"""Every dialect by every fault, with a model of another dialect behind it: answers go on across them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.system.expected import FIRST, MID, ODD, WHOLE, assert_whole, model_of, tried

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]
NEXT = {"openai": "anthropic", "anthropic": "ollama", "ollama": "openrouter", "openrouter": "openai"}
"""Who stands behind whom."""
KINDS = pytest.mark.parametrize("kind", NEXT)


def models() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kind, successor in NEXT.items():
        common = {"provider": kind, "continues": "native", "quality": {"default": 0.3}, "slots": 32}
        for name in (*FIRST, *MID, *ODD, "length", "400", "context-too-long"):
            for stream in (True, False):
                found[model_of(name, kind, stream)] = {**common, "fallbacks": [f"ok@{successor}"]}
        found[f"refusal@{kind}"] = dict(common)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    state = tmp_path_factory.mktemp("dialects")
    (state / "key").write_text(kit.KEY + "\n")
    key = {"key": {"file": "key"}}
    urls = {"openai": fake.url, "anthropic": fake.url, "ollama": fake.root, "openrouter": f"{fake.root}/api/v1"}
    providers = {kind: {"kind": kind, "url": url, **key} for kind, url in urls.items()}
    topology = kit.topology_of(
        fake.url,
        "key",
        providers=providers,
        models=models(),
        aliases={},
        tasks={"general": {"latency": "quick", "max_tokens": 4_000}},
    )
    running = await kit.System(fake, state, topology).start()
    try:
        yield running
    finally:
        await running.stop()


@WHOLE
@KINDS
@pytest.mark.parametrize("name", FIRST)
async def test_before_the_first_word(talk: Any, kit: Any, kind: str, name: str, stream: bool) -> None:
    prompt = f"First {name} {stream}."
    model = model_of(name, kind, stream)
    end, reading = await talk.both(stream, prompt, model=model)
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(model, FIRST[name]), (f"ok@{NEXT[kind]}", "ok")]
    assert end.get("seams", 0) == 0


@WHOLE
@KINDS
@pytest.mark.parametrize("name", MID)
async def test_in_the_middle(talk: Any, kit: Any, kind: str, name: str, stream: bool) -> None:
    prompt = f"Middle {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@{kind}")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@{kind}", MID[name]), (f"ok@{NEXT[kind]}", "ok")]
    assert end["seams"] == 1
    if reading is not None:
        (seam,) = reading.of("seam")
        assert (seam["mode"], seam["from_model"]) == ("continue", f"{name}@{kind}")
        assert seam["to_model"] == f"ok@{NEXT[kind]}"


@WHOLE
@KINDS
@pytest.mark.parametrize("name", ODD)
async def test_odd_but_healthy(talk: Any, kit: Any, kind: str, name: str, stream: bool) -> None:
    prompt = f"Odd {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@{kind}")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@{kind}", "ok")]
    estimated = end["usage"].get("estimated", False)
    assert estimated is (name == "no-usage"), "an absent usage is never 0"
    assert end["usage"]["completion_tokens"] > 0 and end["usage"]["prompt_tokens"] > 0


@WHOLE
@KINDS
async def test_ends_that_are_not_whole(talk: Any, kind: str, stream: bool) -> None:
    end, _ = await talk.both(stream, f"Length {stream}.", model=f"length@{kind}")
    assert (end["type"], end["finish_reason"]) == ("model.finished.v1", "length")
    end, _ = await talk.both(stream, f"No {stream}.", model=f"refusal@{kind}")
    said = "stop" if kind == "ollama" else "refusal"  # Ollama has no word for it
    assert (end["type"], end["finish_reason"]) == ("model.finished.v1", said)
    for name, code in (("400", "caller_fault"), ("context-too-long", "context_too_long")):
        end, _ = await talk.both(stream, f"Fault {stream}.", model=f"{name}@{kind}")
        assert (end["type"], end["code"]) == ("model.failed.v1", code), name
