"""What the local round's models say: the shipped story model, greedy, for prompts whose answer survives every cut.

A model that goes on with a cut text encodes it anew, and the tokens may not be those that the cut answer was made of.
Only prompts are used whose greedy answer is the same after a cut behind every token, so that a text is known exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from understudy.actors.runner.local.load import load
from understudy.actors.runner.local.text import render
from understudy.tools.tiny import make

WEIGHTS = Path(make.__file__).parent / "demo" / "lead"
PROMPTS = ("Look around.", "Go north.", "Open the door.", "Who is here?", "What do I smell?", "Take the lantern.",
           "Where am I?", "Listen.", "Go into the cave.", "Walk to the castle.", "Enter the forest.")  # fmt: skip
LONGEST = 260
WANTED = 3


def twins() -> tuple[Path, list[tuple[str, str]]]:
    """The weights and (prompt, whole answer) for at least one prompt. Raises RuntimeError."""
    loaded = load(WEIGHTS, "float32", 512)
    found: list[tuple[str, str]] = []
    for prompt in PROMPTS:
        text = _stable(loaded, prompt)
        if text:
            found.append((prompt, text))
        if len(found) == WANTED:
            break
    if not found:
        raise RuntimeError("no prompt has an answer that survives every cut")
    return WEIGHTS, found


def _stable(loaded: Any, prompt: str) -> str:
    """The greedy answer if every cut of it is continued to the same text, else nothing."""
    begin = render(loaded.tokenizer, (("user", prompt),), "")
    (answer,) = _greedy(loaded, [begin])
    if not 60 <= len(answer) <= LONGEST:
        return ""
    whole = _text(loaded, answer)
    odd: dict[str, list[int]] = {}  # cut -> tokens that the answer does not begin with
    for n in range(1, len(answer)):
        cut = _text(loaded, answer[:n]).rstrip()
        ids = render(loaded.tokenizer, (("user", prompt),), cut)
        if cut and ids != [*begin, *answer[: len(ids) - len(begin)]]:
            odd[cut] = ids
    rests = _greedy(loaded, list(odd.values())) if odd else []
    for (cut, ids), rest in zip(odd.items(), rests, strict=True):
        if cut + _text(loaded, [*ids[len(begin) :], *rest])[len(cut) :] != whole:
            return ""
    return whole


def _text(loaded: Any, ids: list[int]) -> str:
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


@torch.inference_mode()
def _greedy(loaded: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers to many prompts at once, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[make.PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = loaded.model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=LONGEST + 1,
        do_sample=False,
        pad_token_id=make.PAD,
        eos_token_id=make.END,
    )
    answers: list[list[int]] = []
    for row in out[:, width:].tolist():
        end = row.index(make.END) if make.END in row else len(row)
        answers.append(row[:end])
    return answers
