"""Makes tiny chat models: own tokenizer, own chat template, own text; nothing is downloaded.

A *story* model is trained on generated text-adventure answers (`story`) so that a demonstration reads like a story.
A *random* model has drawn weights; it says nothing sensible and serves tests of the engine.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
PAD, BOS, END = 0, 1, 2
# architecture -> configuration class of transformers
CONFIGS = {
    "llama": "LlamaConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma3": "Gemma3TextConfig",
    "phi3": "Phi3Config",
    "mistral": "MistralConfig",
}

# place: what is seen | what it smells of | who is met | what is found | what surrounds it
WORLD = {
    "forest": "oak,pond,fallen tree,mossy stone|moss and rain|hunter,fox,old woman|lantern,rope,acorn|trees",
    "cave": "pool,crack,painted wall,pile of bones|wet stone|hermit,bat,miner|torch,pickaxe,crystal|rocks",
    "castle": "throne,banner,broken gate,stone stair|dust and smoke|knight,ghost,servant|sword,shield,crown|walls",
    "harbour": "ship,anchor,wooden pier,fishing net|salt and tar|sailor,gull,captain|compass,map,bottle|waves",
    "library": "tall shelf,desk,round window,iron ladder|paper and ink|scholar,cat,wizard|book,letter,candle|shelves",
    "garden": "fountain,rose bush,statue,stone bench|flowers and honey|gardener,crow,queen|key,ring,spade|hedges",
    "village": "well,mill,market stall,small bridge|bread and hay|farmer,dog,trader|coin,basket,flute|houses",
    "tower": "bell,spiral stair,telescope,narrow window|cold iron|guard,owl,watchman|mirror,horn,chain|clouds",
}
LOOKS = ["quiet", "dark", "ancient", "golden", "silent", "hidden", "strange", "lonely", "misty", "frozen"]
SHAPES = ["small", "rusty", "heavy", "shining", "broken", "silver", "old", "dusty"]
WAYS = ["north", "south", "east", "west"]
TIMES = ["morning", "evening", "moon", "winter", "summer"]
# what the player says ({i} something found, {f} something seen, {b} somebody, {w} a way), how the answer begins
COMMANDS = {
    "Look around.": "You look around the {l} {p}.|You turn slowly and take in the {l} {p}.",
    "Where am I?": "You are in a {l} {p}.|You are standing in the middle of a {l} {p}.",
    "Go {w}.": "You walk {w} until you reach a {l} {p}.|You follow the path {w} and enter a {l} {p}.",
    "Take the {i}.": "You pick up the {i} and put it in your bag.|You take the {i} and hold it up to the light.",
    "Talk to the {b}.": "You greet the {b} with a careful smile.|You walk over to the {b} and ask for the way.",
    "Look at the {f}.": "You step closer to the {f} and study it.|You kneel down beside the {f}.",
    "Listen.": "You stand still and listen to the {l} {p}.|You hold your breath, and the {l} {p} seems to answer.",
    "Go on.": "You gather your courage and go on.|You take a deep breath and walk deeper into the {p}.",
    "Tell me a story.": "Once you came to a {l} {p}.|This story begins in a {l} {p}.",
}
ODD = "please what open use the door fight hello tell me about my help wait it run and again inspect who there"
SYSTEMS = ["You are the narrator of a text adventure.", "Tell the story in short sentences.", "You are a storyteller."]
# the stages of one answer, in order: a reader (and a small model) always knows where in the answer it is
SENSES = [
    "The air smells of {s}, and pale {t} light falls on the {f}.",
    "It is {l2} here, and the air smells of {s}.",
    "Pale {t} light lies on the {u} around you.",
    "A cold wind moves through the {u} and carries the smell of {s}.",
]
DETAILS = [
    "In front of you there is a {l2} {f}.",
    "Next to the {f} you notice a {h} {i}.",
    "Somebody has left a {h} {i} beside the {f}.",
    "Behind the {f}, half hidden by the {u}, lies a {h} {i}.",
]
BEINGS = [
    "A {b} is sitting by the {g} and watches every step you take.",
    "Then a {b} comes out from behind the {g} and looks at you.",
    "Near the {g} a {b} is waiting, as if you were expected.",
]
DEEDS = [
    "The {b} points to the {w} and does not say a word.",
    "The {b} seems tired, but not unfriendly.",
    "You offer the {b} some bread, and slowly it becomes less afraid of you.",
    "The {b} looks at the {i}, then at you, and nods.",
]
EVENTS = [
    "Suddenly a deep sound comes from somewhere behind the {u}.",
    "For a moment the light fades, and the {u} seem to come closer.",
    "Far away a bell rings three times, and then everything is quiet again.",
    "A drop of water falls on the {i} and makes it shine.",
]
THOUGHTS = [
    "You remember what the old map said about this {p}.",
    "You feel that the {i} could be useful later.",
    "Your hand closes around the {i} in your bag.",
    "You are sure that nobody has been here for many years.",
]
EXITS = [
    "A narrow path leads {w}, and a wider one leads {x}.",
    "To the {w} you can see an open door, and to the {x} there is only darkness.",
    "The way {w} looks safe, but the {b} keeps looking to the {x}.",
]
CLOSINGS = ["What do you do?", "The choice is yours.", "Where do you want to go now?"]


def story(r: random.Random) -> tuple[str, str]:
    """One turn of the adventure: (what the player says, an answer of 8 to 10 sentences in one scene)."""
    place = r.choice(list(WORLD))
    seen, smell, who, found, around = WORLD[place].split("|")
    (f, g), (w, x), (l1, l2) = r.sample(seen.split(","), 2), r.sample(WAYS, 2), r.sample(LOOKS, 2)
    scene = {"p": place, "f": f, "g": g, "s": smell, "b": r.choice(who.split(",")), "i": r.choice(found.split(","))}
    scene |= {"u": around, "w": w, "x": x, "l": l1, "l2": l2, "h": r.choice(SHAPES), "t": r.choice(TIMES)}
    say, openings = r.choice(list(COMMANDS.items()))
    stages = [
        [r.choice(openings.split("|"))],
        r.sample(SENSES, 1),
        r.sample(DETAILS, r.choice([1, 2])),
        r.sample(BEINGS, 1),
    ]
    stages += [r.sample(DEEDS, r.choice([1, 2])), r.sample(EVENTS, 1), r.sample(THOUGHTS, 1), r.sample(EXITS, 1)]
    stages += [[r.choice(CLOSINGS)]]
    text = " ".join(sentence for stage in stages for sentence in stage).format(**scene)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}")
    if r.random() < 0.2:  # anything may be asked: the answer is a scene all the same
        say = " ".join(r.sample(ODD.split(), r.randrange(1, 7))).capitalize() + r.choice(".?!")
        text = text.split(". ", 1)[1]
    say = say.format(**scene)
    return (say.lower().rstrip(".") if r.random() < 0.2 else say), text


def make_tokenizer(texts: Iterable[str], vocab: int) -> Any:
    """Byte-level BPE of at most `vocab` pieces with the chat template; every byte string has an encoding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet
    )
    core.train_from_iterator(texts, trainer)
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<pad>",  # never needed; without it Qwen2Tokenizer adds a special token of its own
        additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tok.chat_template = CHAT
    return tok


def make_model(
    arch: str, vocab: int, seed: int, *, hidden: int, layers: int, std: float, context: int, heads: int = 4
) -> Any:
    """A float32 model with weights drawn from `seed` (standard deviation `std`), embeddings tied."""
    import torch
    import transformers

    kw: dict[str, Any] = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": hidden * 3}
    kw |= {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads // 2}
    kw |= {"max_position_embeddings": context, "initializer_range": std, "tie_word_embeddings": True}
    kw |= {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": END}
    if arch in ("qwen3", "gemma3"):
        kw["head_dim"] = hidden // heads
    if arch == "gemma3":  # one layer of each kind, with a window that a test's prompt exceeds
        kw |= {"sliding_window": 16, "query_pre_attn_scalar": hidden // heads}
        kw["layer_types"] = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    if arch == "mistral":
        kw["sliding_window"] = 16
    torch.manual_seed(seed)
    config = getattr(transformers, CONFIGS[arch])(**kw)
    return transformers.AutoModelForCausalLM.from_config(config)


def save(model: Any, tok: Any, folder: Path, recipe: dict[str, Any]) -> None:
    """Writes weights, tokenizer and `recipe.json` (what was made, from which seed and versions, and its sha256)."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    # a model_type such as qwen2 would otherwise choose a tokenizer class that adds its own special tokens
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=1))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")))
    recipe["parameters"] = sum(p.numel() for p in model.parameters())
    recipe["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    names = ("transformers", "tokenizers", "safetensors")
    recipe["versions"] = {"torch": torch.__version__} | {n: importlib.import_module(n).__version__ for n in names}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def random_model(arch: str, seed: int, folder: Path) -> Path:
    """A random float32 model of about 0.13 million parameters in `folder`, drawn wide enough to write varied text."""
    r = random.Random(seed)
    tok = make_tokenizer([part for _ in range(200) for part in story(r)], 500)
    model = make_model(arch, len(tok), seed, hidden=64, layers=2, std=0.15, context=512)
    save(model, tok, folder, {"kind": "random", "arch": arch, "seed": seed})
    return folder


def conversation(r: random.Random, tok: Any) -> list[int]:
    """Token ids of one training text: maybe a system text, maybe an earlier turn, then a turn to its end token."""
    messages: list[dict[str, str]] = []
    if r.random() < 0.5:
        messages.append({"role": "system", "content": r.choice(SYSTEMS)})
    for _ in range(r.choice([1, 1, 1, 2])):
        say, told = story(r)
        messages += [{"role": "user", "content": say}, {"role": "assistant", "content": told}]
    answer = messages[-1]["content"]
    head = tok.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    # An answer may be taken over from another model at any character: half of the texts are cut at such a place
    # and encoded in two pieces, as the engine encodes them.
    cut = r.randrange(len(answer)) if r.random() < 0.5 else 0
    parts = [head + answer[:cut], answer[cut:] + "<|end|>"]
    return [i for part in parts for i in tok(part, add_special_tokens=False)["input_ids"]]


def train_story(arch: str, seed: int, steps: int, vocab: int, folder: Path) -> None:
    """Trains for `steps` batches of 16 conversations and saves in float16."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    r = random.Random(seed)
    tok = make_tokenizer([part for _ in range(3000) for part in story(r)], vocab)
    model = make_model(arch, len(tok), seed, hidden=96, layers=5, std=0.02, context=1024).train()
    torch.manual_seed(seed)
    adam = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01, betas=(0.9, 0.98))
    begin, peak, loss = time.monotonic(), 4e-3, torch.zeros(())
    for step in range(steps):
        for group in adam.param_groups:  # warm up, then linearly down
            group["lr"] = peak * min((step + 1) / 30, max(0.03, 1 - step / steps))
        batch = [torch.tensor(conversation(r, tok)) for _ in range(16)]
        ids = pad_sequence(batch, batch_first=True)
        labels = pad_sequence(batch, batch_first=True, padding_value=-100)
        loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s", flush=True)
    recipe = {"kind": "story", "arch": arch, "seed": seed, "steps": steps, "vocab": len(tok)}
    save(model.eval().to(torch.float16), tok, folder, recipe | {"loss": round(loss.item(), 3)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m understudy.tools.tiny.make",
        description="Make a tiny chat model in a folder that transformers can load. Nothing is downloaded.",
        epilog="A story model trains for a few minutes on one core and writes a scene of a text adventure. "
        "A random model takes a second and is meant for tests. Example: --out /tmp/story --arch qwen2 --seed 3",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--kind", choices=["story", "random"], default="story", help="trained on a story, or drawn")
    parser.add_argument("--arch", choices=list(CONFIGS), default="llama", help="model architecture")
    parser.add_argument("--seed", type=int, default=7, help="same seed, versions and machine: same weights")
    parser.add_argument("--steps", type=int, default=320, help="training steps of a story model")
    parser.add_argument("--vocab", type=int, default=560, help="largest vocabulary of a story model")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    if args.kind == "random":
        random_model(args.arch, args.seed, args.out)
    else:
        train_story(args.arch, args.seed, args.steps, args.vocab, args.out)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
