"""What is found out at load: folders that cannot be used, models that the loop would serve wrongly, too little room."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from tests.actors.runner.local.engines import ARCHS
from understudy.actors.runner.local import cache as cache_module
from understudy.actors.runner.local import slots as slots_module
from understudy.actors.runner.local.engine import Engine
from understudy.actors.runner.local.load import LoadError, load


def test_a_model_that_the_loop_serves_wrongly_is_found_at_load(models: dict[str, Path], monkeypatch: Any) -> None:
    model = load(models["llama"], "float32", 512).model
    served, _ = slots_module.why_not(model, 4, 64)
    assert served is not None
    real = slots_module.SlotModel._additive
    monkeypatch.setattr(slots_module.SlotModel, "_additive", lambda self, allowed: real(self, allowed) * 0)
    assert slots_module.why_not(model, 4, 64) == (None, "parity")
    monkeypatch.setattr(slots_module.SlotModel, "_additive", lambda self, allowed: real(self, allowed) * math.nan)
    assert slots_module.why_not(model, 4, 64) == (None, "parity")  # not a number is not equal
    monkeypatch.setattr(slots_module.SlotModel, "_masks", lambda self, queries: {}["no such kind"])
    assert slots_module.why_not(model, 4, 64) == (None, "forward")


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_passes_the_check_at_load(arch: str, models: dict[str, Path]) -> None:
    model = load(models[arch], "bfloat16", 512).model
    assert slots_module.why_not(model, 4, 128)[1] == ""


def test_what_does_not_fit_into_memory_is_no_other_path(models: dict[str, Path], monkeypatch: Any) -> None:
    model = load(models["llama"], "float32", 512).model

    def full(self: Any, states: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(cache_module.SlotLayer, "_empty", full)
    with pytest.raises(LoadError, match="no_memory: 4 slots of 64 tokens"):
        slots_module.why_not(model, 4, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match="CUDA"):
        load(models["llama"], "float32", 512, "cuda")
    assert load(models["llama"], "float32", 512).device == "cpu"


def _edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _edit_json(folder: Path, name: str, **more: Any) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | more))


def _pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _index(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def _cut(folder: Path, size: int) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:size])


NORM = "model.layers.0.input_layernorm.weight"
BAD_FOLDERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no folder": ("not_found", shutil.rmtree),
    "no weights": ("not_found", lambda f: (f / "model.safetensors").unlink()),
    "pickle only": ("unsafe_format", _pickle_only),
    "index leaves the folder": ("unsafe_format", lambda f: _index(f, "../model.safetensors")),
    "index names a pickle": ("unsafe_format", lambda f: _index(f, "pytorch_model.bin")),
    "shard missing": ("missing_tensors", lambda f: _index(f, "model-00001-of-00002.safetensors")),
    "tensor missing": ("missing_tensors", lambda f: _edit_weights(f, lambda t: t.pop(NORM))),
    "tensor of another shape": ("missing_tensors", lambda f: _edit_weights(f, lambda t: t.update({NORM: t[NORM][:8]}))),
    "empty weights": ("bad_weights", lambda f: _cut(f, 0)),
    "cut weights": ("bad_weights", lambda f: _cut(f, 100_000)),
    "absurd header": ("bad_weights", lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) * 9)),
    "no tokenizer": ("unsupported", lambda f: [file.unlink() for file in f.glob("tokenizer*")]),
    "no chat template": ("unsupported", lambda f: (f / "chat_template.jinja").unlink()),
    "unknown kind": ("unsupported", lambda f: _edit_json(f, "config.json", model_type="nobody_knows")),
    "own code": (
        "unsupported",
        lambda f: _edit_json(f, "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
    ),
}


@pytest.mark.parametrize("name", list(BAD_FOLDERS))
def test_bad_folders_are_refused_with_a_code(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    code, spoil = BAD_FOLDERS[name]
    folder = tmp_path / "model"
    shutil.copytree(models["llama"], folder)
    spoil(folder)
    engine = Engine(folder, slots=2, max_context_tokens=64, emit=lambda events: None)
    with pytest.raises(LoadError) as caught:
        engine.load()
    assert caught.value.code == code
    with pytest.raises(RuntimeError):
        engine.start()
