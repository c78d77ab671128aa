"""Which tokens the engine says: those of generate(), alone and in a batch, on either path; draws that are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from tests.actors.runner.local.engines import ARCHS, ask, prompts
from understudy.actors.runner.local import slots as slots_module
from understudy.actors.runner.local.load import load
from understudy.actors.runner.local.sampling import Draw, sample
from understudy.actors.runner.local.text import render
from understudy.tools.tiny import make


@pytest.mark.parametrize("arch", ARCHS)
def test_greedy_tokens_equal_generate_in_a_batch_of_16(arch: str, models: dict[str, Path], run: Any) -> None:
    running = run(models[arch], slots=16, dtype="float32")
    info = running.engine.info
    assert (info.path, info.reason, info.dtype) == ("slots", "", "float32")
    contents = prompts(16)
    running.submit(*(ask(str(i), content, max_tokens=24) for i, content in enumerate(contents)))
    loaded = load(models[arch], "float32", 512)
    for i, content in enumerate(contents):
        ids = torch.tensor([render(loaded.tokenizer, (("user", content),), "")], device=loaded.model.device)
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, eos_token_id=make.END, pad_token_id=0
        )
        assert running.tokens[str(i)] == out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(arch: str, models: dict[str, Path], run: Any) -> None:
    running = run(models[arch], slots=16, dtype="float32")
    hot = {"max_tokens": 20, "temperature": 0.9, "top_p": 0.95}
    running.submit(*(ask(str(i), content, seed=i, **hot) for i, content in enumerate(prompts(16))))
    for i in (0, 7, 15):
        running.submit(ask(f"alone {i}", prompts(16)[i], seed=i, **hot))
        assert running.tokens[f"alone {i}"] == running.tokens[str(i)]
    running.submit(ask("other", prompts(16)[15], seed=99, **hot))
    assert running.tokens["other"] != running.tokens["15"]


def test_generate_path_gives_the_same_tokens(models: dict[str, Path], run: Any, monkeypatch: Any) -> None:
    asked = [ask(str(i), max_tokens=20, temperature=0.8 * (i % 2), seed=i) for i in range(4)]
    first = run(models["qwen3"])
    first.submit(*asked)
    monkeypatch.setattr(slots_module, "layer_types", lambda model: {"full_attention", "linear_attention"})
    second = run(models["qwen3"])
    assert (second.engine.info.path, second.engine.info.reason) == ("generate", "layers")
    second.submit(*asked)
    assert second.tokens == first.tokens
    assert [second.text(str(i)) for i in range(4)] == [first.text(str(i)) for i in range(4)]


@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_a_draw_does_not_depend_on_the_rounding_of_equal_chances(top_p: float) -> None:
    source = torch.Generator().manual_seed(1)
    logits = torch.cat([torch.zeros(20), torch.linspace(-0.1, -3, 480)])[torch.randperm(500, generator=source)][None]
    noise = torch.rand(1, 500, generator=source) * 1e-6  # the order of the 20 equal ones, by which none may be drawn
    for seed in range(300):
        assert sample(logits, [Draw(1.0, top_p, seed)]) == sample(logits + noise, [Draw(1.0, top_p, seed)])
    peaked = torch.linspace(0, 4, 500)[None]
    counts = torch.zeros(500)
    for seed in range(2000):
        counts[sample(peaked, [Draw(1.0, top_p, seed)])[0]] += 1
    ranked = peaked[0].softmax(-1).flip(0)
    nucleus = int((ranked.cumsum(0) - ranked < top_p).sum())
    assert counts[: 500 - nucleus].sum() == 0
    expected = ranked[:nucleus].flip(0) / ranked[:nucleus].sum()
    assert (counts[500 - nucleus :] / 2000 - expected).abs().max() < 0.02
