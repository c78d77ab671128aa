"""The tiny models: what is shipped is what its recipe says and tells a story; random ones load."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from understudy.actors.runner.local.load import load  # noqa: E402 - after the skip for installs without torch
from understudy.actors.runner.local.text import render  # noqa: E402
from understudy.tools.tiny import make  # noqa: E402

DEMO = Path(make.__file__).parent / "demo"
LOOK = (("user", "Look around."),)


@pytest.mark.parametrize(("name", "arch"), [("lead", "llama"), ("second", "qwen2")])
def test_shipped_models_match_their_recipe_and_tell_a_story(name: str, arch: str) -> None:
    recipe = json.loads((DEMO / name / "recipe.json").read_text())
    weights = (DEMO / name / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recipe["sha256"]
    loaded = load(DEMO / name, "auto", 1024)
    assert (loaded.arch, loaded.parameters, loaded.dtype) == (arch, recipe["parameters"], "float32")
    assert len(loaded.tokenizer) == loaded.vocab == recipe["vocab"]
    ids = torch.tensor([render(loaded.tokenizer, LOOK, "")])
    out = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=400, pad_token_id=0, eos_token_id=make.END
    )
    answer = out[0, ids.shape[1] :].tolist()
    assert 60 <= len(answer) < 400
    assert answer[-1] == make.END
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
    assert text.startswith("You ")
    assert text.count(". ") >= 5


def test_shipped_models_are_small_and_differ() -> None:
    files = [file for file in DEMO.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 2_800_000
    assert not any(file.suffix in (".bin", ".pt", ".py") for file in files)


@pytest.mark.parametrize("arch", list(make.CONFIGS))
def test_random_models_load(arch: str, tmp_path: Path) -> None:
    loaded = load(make.random_model(arch, 5, tmp_path), "float32", 512)
    assert loaded.parameters < 300_000
    assert loaded.end_ids == {make.END}
    core = loaded.tokenizer.backend_tokenizer
    text = "<bos><|user|>Go north.<|end|>\n<|assistant|>"
    assert render(loaded.tokenizer, (("user", "Go north."),), "") == core.encode(text).ids


def test_same_seed_gives_the_same_random_model(tmp_path: Path) -> None:
    hashes = [
        json.loads((make.random_model("llama", seed, tmp_path / name) / "recipe.json").read_text())["sha256"]
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_help_teaches() -> None:
    command = [sys.executable, "-m", "understudy.tools.tiny.make", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "Example:" in said
    assert "--arch" in said
