"""What must not differ (tokens, alone and together) and must not hurt (a NaN, a cancelled call) in the local engine."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.actors.runner.local import Failed, GenerateSpec
from understudy.tools.bench.engine_rig import AT_ONCE, CONTEXT, THREADS, DType, Rig

ARCHS = ("llama", "qwen2", "qwen3", "gemma3", "phi3")
WORDS = "old red blue dark wet cold long odd look around take every golden key you can find".split()  # noqa: SIM905


def unequal(folder: Path, dtype: DType) -> dict[str, int]:
    """Of 16 requests each: greedy ones that differ from generate(), seeded ones that differ alone and together."""
    import torch

    from understudy.actors.runner.local.load import load
    from understudy.actors.runner.local.slots import why_not

    torch.set_num_threads(THREADS)
    loaded = load(folder, dtype, CONTEXT)
    served, reason = why_not(loaded.model, AT_ONCE, CONTEXT)
    if served is None:
        return {"greedy": AT_ONCE, "seeded": AT_ONCE, reason: 1}
    prompts = [" ".join(itertools.islice(itertools.cycle(WORDS), i, i + 2 + 3 * i)) for i in range(AT_ONCE)]

    def spec(number: int, heat: float) -> GenerateSpec:
        messages = (("user", prompts[number]),)
        return GenerateSpec(str(number), messages, max_tokens=24, temperature=heat, top_p=0.95, seed=number)

    cold = tokens_of(served, loaded, [spec(i, 0.0) for i in range(AT_ONCE)])
    greedy = sum(ours != generated(loaded, prompt) for ours, prompt in zip(cold, prompts, strict=True))
    hot = tokens_of(served, loaded, [spec(i, 0.9) for i in range(AT_ONCE)])
    seeded = sum(hot[i] != tokens_of(served, loaded, [spec(i, 0.9)])[0] for i in range(AT_ONCE))
    return {"greedy": greedy, "seeded": seeded}


def tokens_of(served: Any, loaded: Any, specs: list[GenerateSpec]) -> list[list[int | None]]:
    """The tokens of calls that begin together, ends included."""
    from understudy.actors.runner.local.slots import SlotLoop
    from understudy.actors.runner.local.text import prepare

    loop, taped = SlotLoop(served, None), list[list[int | None]]()
    for spec in specs:
        request, tape = prepare(spec, loaded), list[int | None]()
        take = request.take
        request.take = lambda token, take=take, tape=tape: (tape.append(token), take(token))[1]
        taped.append(tape)
        loop.add(request)
    while loop.requests:
        loop.step(time.monotonic())
    return taped


def generated(loaded: Any, prompt: str) -> list[int]:
    """Greedy tokens of transformers' generate()."""
    import torch

    from understudy.actors.runner.local.text import render

    ids = torch.tensor([render(loaded.tokenizer, (("user", prompt),), "")], device=loaded.model.device)
    ends = sorted(loaded.end_ids)
    out = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=ends, pad_token_id=0
    )
    return out[0, ids.shape[1] :].tolist()


# --- what must not hurt ----------------------------------------------------------------------------------------------


async def hurt(folder: Path) -> int:
    """Requests that a NaN beside them, or before them in their slot, harmed; of three crowds with one bad call each."""
    prompts = [f"take the {word} key and go on" for word in WORDS[:8] * 2]
    async with Rig(folder, "float32") as rig:
        names = [rig.ask(prompt, max_tokens=24) for prompt in prompts]
        calm = [(await rig.end(name), rig.texts.get(name, ""))[1] for name in names]
    bad = next(sign for sign in "~^|{}@#%&*<>$" if not any(sign in text for text in calm))  # what nobody else says
    harmed = 0
    async with Rig(folder, "float32") as rig:
        with embedding_hook(bad, folder):
            for sick in (3, 9, 15):
                asked = [f"{bad} {prompt}" if i == sick else prompt for i, prompt in enumerate(prompts)]
                names = [rig.ask(prompt, max_tokens=24) for prompt in asked]
                for i, name in enumerate(names):
                    end, text = await rig.end(name), rig.texts.get(name, "")
                    alone = isinstance(end, Failed) and end.code == "nan_logits"
                    harmed += not alone if i == sick else text != calm[i]
    return harmed


@contextmanager
def embedding_hook(text: str, folder: Path) -> Generator[None]:
    """Meanwhile every model says NaN for the token of `text`."""
    from torch import nn

    from understudy.actors.runner.local.load import load

    bad = load(folder, "float32", CONTEXT, "cpu").tokenizer.encode(text)[0]

    def poison(module: nn.Module, args: Any, out: Any) -> Any:
        return out.masked_fill((args[0] == bad)[..., None], float("nan")) if isinstance(module, nn.Embedding) else None

    handle = nn.modules.module.register_module_forward_hook(poison)
    try:
        yield
    finally:
        handle.remove()


async def cancel_steps(folder: Path) -> int:
    """Passes of the model, at worst, between a cancel and the end of its call: of running and of waiting calls."""
    from torch import nn
    from transformers import GenerationMixin

    passes = itertools.count()
    done = 0

    def count(module: nn.Module, args: Any, out: Any) -> None:
        nonlocal done
        if isinstance(module, GenerationMixin):
            done = next(passes) + 1

    handle = nn.modules.module.register_module_forward_hook(count)
    worst, at_end = 0, dict[str, int]()
    try:
        async with Rig(folder, "float32") as rig:
            rig.on_emit = lambda events: at_end.update({e.call_id: done for e in events if isinstance(e, Failed)})
            for wait_s in (0.0, 0.05, 0.2):  # while prompts are read, and later
                names = [rig.ask(f"go on {i} " * (2 + i), max_tokens=400) for i in range(AT_ONCE)]
                for name in names:
                    await asyncio.sleep(wait_s / AT_ONCE)
                    before = done
                    rig.engine.cancel(name)
                    end = await rig.end(name)
                    if isinstance(end, Failed) and end.code == "cancelled":
                        worst = max(worst, at_end[name] - before)
    finally:
        handle.remove()
    if not at_end:
        raise RuntimeError("every call ended before it was cancelled")
    return worst
