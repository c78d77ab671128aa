"""The local engine alone: many requests at once over generate() one after the other, and what must not differ or hurt.

The rate is in tokens per CPU second of the whole process (on a GPU: per second), so that other work on the machine does
not count; every round measures all ways of serving on the same prompts, and the median of the rounds' ratios is judged.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from understudy.tools.bench.engine_checks import ARCHS, cancel_steps, hurt, unequal
from understudy.tools.bench.engine_rig import (
    AT_ONCE,
    CONTEXT,
    NEW_TOKENS,
    THREADS,
    DType,
    Rig,
    lab_model,
    longest_pause_ms,
)
from understudy.tools.bench.report import Result, bar, median

ROUNDS = {"float32": 5, "bfloat16": 3}
DTYPES: tuple[DType, ...] = ("float32", "bfloat16")


# --- how fast --------------------------------------------------------------------------------------------------------


async def rates(folder: Path, dtype: DType, rounds: int) -> dict[str, Any]:
    """Tokens per CPU second (per second on a GPU) by way of serving, all ways in every round; the loop's pauses."""
    from understudy.actors.runner.local.load import load

    loaded = await asyncio.to_thread(load, folder, dtype, CONTEXT)
    clock = time.process_time if loaded.device == "cpu" else time.perf_counter
    words, draw = (folder / "words").read_text().split(), random.Random(5)
    found: dict[str, list[float]] = {"serial": [], "1": [], "4": [], str(AT_ONCE): []}
    pauses, calm = list[float](), list[float]()
    async with Rig(folder, dtype) as rig:
        for number in range(rounds + 1):  # the first one warms up
            prompts = [" ".join(draw.choices(words, k=draw.randrange(8, 24))) for _ in range(AT_ONCE)]
            for way, rate in found.items():
                took = prompts[: (AT_ONCE if number else 2) if way == "serial" else int(way)]
                tokens: list[int] = []

                async def serve(way: str = way, took: list[str] = took, tokens: list[int] = tokens) -> None:
                    serial = way == "serial"
                    tokens.append(await (asyncio.to_thread(one_by_one, loaded, took) if serial else rig.together(took)))

                began = clock()
                pause = await longest_pause_ms(serve())
                calm.append(await longest_pause_ms(asyncio.sleep(0.5)))
                if number:
                    rate.append(tokens[0] / (clock() - began))
                    if way == str(AT_ONCE):
                        pauses.append(pause)
        pauses.append(await longest_pause_ms(crowd(rig, words)))
        info = rig.engine.info
    ratios = [many / one for many, one in zip(found[str(AT_ONCE)], found["serial"], strict=True)]
    return {
        "path": info.path,
        "parameters": info.parameters,
        "unit": "tokens per CPU second" if loaded.device == "cpu" else "tokens per second",
        "rates": {way: round(median(rate), 1) for way, rate in found.items()},
        "ratio": median(ratios),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "pauses_ms": [round(pause, 1) for pause in pauses],
        "pause_of_an_idle_loop_ms": round(max(calm), 1),
        "gpu_memory_mb": gpu_memory_mb(),
    }


def one_by_one(loaded: Any, prompts: list[str]) -> int:
    """What the engine is compared with: transformers' own generate(), one prompt after the other."""
    import torch
    from transformers import GenerationConfig

    from understudy.actors.runner.local.text import render

    torch.set_num_threads(THREADS)
    config = GenerationConfig(do_sample=True, temperature=0.8, top_k=0, max_new_tokens=NEW_TOKENS, pad_token_id=0)
    tokens = 0
    for prompt in prompts:
        ids = torch.tensor([render(loaded.tokenizer, (("user", prompt),), "")], device=loaded.model.device)
        with torch.inference_mode():
            out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        tokens += out.shape[1] - ids.shape[1]
    return tokens


async def crowd(rig: Rig, words: list[str]) -> None:
    """What is hard on the loop: long prompts join while others run, and one far too long is refused."""
    running = [rig.ask(" ".join(words[i : i + 9]), max_tokens=60) for i in range(AT_ONCE - 4)]
    await asyncio.sleep(0.3)
    late = [rig.ask(" ".join(words[i : i + 150]), max_tokens=20) for i in range(3)]
    refused = rig.ask(" ".join(words * 20))  # about 1 MB
    for name in (*late, refused, *running):
        await rig.end(name)


# --- the report ------------------------------------------------------------------------------------------------------


def gpu_memory_mb() -> float:
    """Largest GPU memory that torch held so far; 0 without a GPU."""
    import torch

    return round(torch.cuda.max_memory_reserved() / 1e6, 1) if torch.cuda.is_available() else 0.0


async def measure(quick: bool = False) -> Result:
    """All parts, on models made for it in a temporary folder; `quick`: one round of the rates."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    import torch

    from understudy.actors.runner.local.load import pick_device
    from understudy.tools.tiny import make

    device = pick_device("auto")
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as base:
        lab = await asyncio.to_thread(lab_model, Path(base) / "lab")
        tiny = {arch: await asyncio.to_thread(make.random_model, arch, 3, Path(base) / arch) for arch in ARCHS}
        speed = {dtype: await rates(lab, dtype, 1 if quick else ROUNDS[dtype]) for dtype in DTYPES}
        differ = {
            dtype: {arch: await asyncio.to_thread(unequal, folder, dtype) for arch, folder in tiny.items()}
            for dtype in DTYPES
        }
        harmed, steps = await hurt(tiny["llama"]), await cancel_steps(lab)
    unit = "x per CPU s" if device.type == "cpu" else "x per s"
    bars = (
        bar("batch_ratio", speed["float32"]["ratio"], unit, 4.0, None, "higher"),
        bar("batch_ratio_bf16", speed["bfloat16"]["ratio"], unit, None, None, "higher"),
        bar("unequal", sum(sum(found.values()) for found in differ["float32"].values()), "requests", 0),
        bar("unequal_bf16", sum(sum(found.values()) for found in differ["bfloat16"].values()), "requests"),
        bar("nan_hurt", harmed, "requests", 0),
        bar("cancel_steps", steps, "passes", 2),
        bar("loop_pause_ms", max(p for found in speed.values() for p in found["pauses_ms"]), "ms", 50),
    )
    versions = dict.fromkeys(("torch", "transformers", "tokenizers"), "missing")
    for name in versions:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    detail: dict[str, Any] = {
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "torch_threads": THREADS,
        "at_once": AT_ONCE,
        "new_tokens": NEW_TOKENS,
        "speed": speed,
        "unequal_of_16": differ,
        "versions": versions,
        "load": os.getloadavg(),
    }
    return Result(bench="engine", bars=bars, detail=detail)


def explain(result: Result) -> str:
    """Tokens per CPU second by requests at once, as bars."""
    speed = result.detail["speed"]
    most = max(rate for found in speed.values() for rate in found["rates"].values())
    lines = [f"device {result.detail['device']}, {THREADS} torch thread, {speed['float32']['unit']}:"]
    for dtype, found in speed.items():
        for way, rate in found["rates"].items():
            name = "generate()" if way == "serial" else f"{way} at once"
            lines.append(f"  {dtype:9}{name:>11} {'#' * round(50 * rate / most):50} {rate:g}")
    return "\n".join(lines)
