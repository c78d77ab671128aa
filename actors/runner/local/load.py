"""From a folder to a model and a tokenizer, or to a `LoadError` with a closed code. No network, no code, no pickle."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as hf_logging

LoadCode = Literal["not_found", "unsafe_format", "missing_tensors", "bad_weights", "unsupported", "no_memory"]
DType = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]

MAX_HEADER_BYTES = 32 << 20  # of one safetensors file; 100 000 tensors need about a third of it
TINY_WEIGHT_BYTES = 64 << 20  # below this, bfloat16 saves nothing that matters and float32 is exact
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class LoadError(Exception):
    """The folder cannot be served. `code` is for programs, the message for people."""

    def __init__(self, code: LoadCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: LoadCode = code
        self.message = message


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer, and what the engine needs to know about them."""

    model: Any
    tokenizer: Any
    arch: str
    parameters: int
    dtype: str
    device: str  # cpu, or the GPU's name
    context_tokens: int
    vocab: int  # rows of the embedding: every token id must be below it
    end_ids: frozenset[int]  # tokens that end an answer


def load(folder: Path, dtype: DType, max_context_tokens: int, device: Device = "auto") -> Loaded:
    """Loads `folder`, whose context is at most `max_context_tokens` tokens. Blocking."""
    files = weight_files(folder)
    for file in files:
        check_header(file)
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    config = _config(folder)
    place = pick_device(device)
    kind = pick_dtype(dtype, sum(file.stat().st_size for file in files), place)
    model = _moved(_model(folder, kind), place)
    tokenizer = _tokenizer(folder)
    text: Any = config.get_text_config(decoder=True)
    ends = _end_ids(model, text, tokenizer)
    # Hidden defaults of a checkpoint (repetition penalty, top-k, lengths) would make generate() differ from a request.
    model.generation_config = GenerationConfig()
    own_context = getattr(text, "max_position_embeddings", None) or max_context_tokens
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        arch=str(config.model_type),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(kind).removeprefix("torch."),
        device="cpu" if place.type == "cpu" else torch.cuda.get_device_name(place),
        context_tokens=min(max_context_tokens, int(own_context)),
        vocab=int(model.get_input_embeddings().weight.shape[0]),
        end_ids=ends,
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model, all inside the folder."""
    if not (folder / "config.json").is_file():
        raise LoadError("not_found", f"no config.json in {folder}")
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
        if pickles:
            raise LoadError("unsafe_format", f"only pickled weights ({pickles[0]}); save them as safetensors")
        raise LoadError("not_found", f"no model.safetensors in {folder}")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError("bad_weights", f"unreadable {index.name}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != ".safetensors":
            raise LoadError("unsafe_format", f"{index.name} names a file that is not a plain .safetensors name")
        if not (folder / name).is_file():
            raise LoadError("missing_tensors", f"{name} is named by {index.name} but not there")
    return [folder / name for name in names]


def check_header(file: Path) -> None:
    """Refuses a header length that is absurd or longer than the file, before anything is allocated for it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise LoadError("bad_weights", f"{file.name}: header length {length} in a file of {size} bytes")


def pick_device(device: Device) -> torch.device:
    """`auto`: the first GPU that CUDA shows, else the CPU. CUDA_VISIBLE_DEVICES chooses among GPUs, or hides them."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LoadError("unsupported", "no CUDA device; install a CUDA build of torch, or choose device `cpu`")
    return torch.device("cuda", 0)


def pick_dtype(dtype: DType, weight_bytes: int, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the device computes in it (a CPU: 1.3 to 2.5 times as fast) and the model is not tiny."""
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= (8, 0)
    else:  # private functions of torch: a version without them gets float32, which is always right
        able = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if able and weight_bytes > TINY_WEIGHT_BYTES else torch.float32


def _moved(model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise LoadError("no_memory", f"the weights do not fit on {torch.cuda.get_device_name(device)}") from error


def _config(folder: Path) -> Any:
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise LoadError("unsupported", f"config.json: {type(error).__name__}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError("unsupported", f"{config.model_type} is an encoder-decoder")
    return config


def _model(folder: Path, kind: torch.dtype) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=kind,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported, and refused below, instead of an odd error
        )
    except (SafetensorError, OSError, RuntimeError) as error:
        raise LoadError("bad_weights", f"weights unreadable: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise LoadError("unsupported", f"model cannot be built: {type(error).__name__}") from error
    model, info = loaded
    # transformers only warns and draws random values for what is missing
    missing = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
    if missing:
        raise LoadError("missing_tensors", f"{len(missing)} missing or of another shape, {min(missing)} first")
    return model.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, AttributeError, ImportError) as error:
        raise LoadError("unsupported", f"tokenizer: {type(error).__name__}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise LoadError("unsupported", "the tokenizer has no tokenizer.json form, which streaming needs")
    if not tokenizer.chat_template:
        raise LoadError("unsupported", "the tokenizer has no chat template")
    # a tokenizer.json may bring limits of its training along
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _end_ids(model: Any, config: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, getattr(config, "eos_token_id", None), tokenizer.eos_token_id):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, list):
            found.update(value)
    return frozenset(found)
