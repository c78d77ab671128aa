"""One bad call hurts nobody: not its neighbours in the batch, not the next user of its slot, not the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.actors.runner.local.engines import LEAD, ask, prompts
from understudy.actors.runner.local import Failed, Finished
from understudy.actors.runner.local.text import render


@pytest.mark.parametrize("place", ["prompt", "answer"])
def test_nan_fails_one_request_alone_and_the_next_user_of_its_slot_is_unhurt(place: str, run: Any) -> None:
    contents = {"a": "Take the lantern.", "b": "Listen.", "c": "Where am I?", "d": "Go east."}
    calm = run(LEAD)
    calm.submit(*(ask(name, content, max_tokens=60) for name, content in contents.items()))
    tokenizer = calm.engine._loaded.tokenizer
    seen = {n: {*calm.tokens[n], *render(tokenizer, (("user", c),), "")} for n, c in contents.items()}
    others = seen["b"] | seen["c"] | seen["d"]
    bad = tokenizer.encode("~")[0] if place == "prompt" else next(t for t in calm.tokens["a"][5:] if t not in others)
    if place == "prompt":
        contents["a"] = "Take ~ the lantern."
    sick = run(LEAD, begin=False)

    def poison(module: Any, args: Any, out: Any) -> Any:
        return out.masked_fill((args[0] == bad)[..., None], float("nan"))

    sick.engine._loaded.model.get_input_embeddings().register_forward_hook(poison)
    sick.engine.start()
    for turn in range(3):  # later turns use the slot again
        for name, content in contents.items():
            assert sick.engine.submit(ask(f"{name}{turn}", content, max_tokens=60))
        failed = sick.last(f"a{turn}")
        assert isinstance(failed, Failed)
        assert failed.code == "nan_logits"
        for name in "bcd":
            assert isinstance(sick.last(f"{name}{turn}"), Finished)
            assert sick.tokens[f"{name}{turn}"] == calm.tokens[name]


def test_prompts_are_read_together_and_a_nan_in_one_spoils_none_of_the_others(run: Any) -> None:
    contents = ["Take the lantern.", "Take ~ the lantern.", "Listen.", "Go east."]
    asked = [ask(str(i), content, max_tokens=20) for i, content in enumerate(contents)]
    calm, sick = run(LEAD), run(LEAD, begin=False)
    calm.submit(*asked)
    bad = sick.engine._loaded.tokenizer.encode("~")[0]
    read: list[int] = []  # tokens of each pass

    def poison(module: Any, args: Any, out: Any) -> Any:
        read.append(args[0].shape[1])
        return out.masked_fill((args[0] == bad)[..., None], float("nan"))

    sick.engine._loaded.model.get_input_embeddings().register_forward_hook(poison)
    for spec in asked:
        assert sick.engine.submit(spec)
    sick.engine.start()  # all are waiting by now
    for number in (0, 2, 3):
        assert isinstance(sick.last(str(number)), Finished)
        assert sick.tokens[str(number)] == calm.tokens[str(number)]
    failed = sick.last("1")
    assert isinstance(failed, Failed)
    assert failed.code == "nan_logits"
    sizes = [len(render(sick.engine._loaded.tokenizer, spec.messages, "")) for spec in asked]
    assert read[:2] == [sum(sizes), sizes[0]]  # together, then the first alone


def test_an_error_in_the_model_ends_its_calls_and_not_the_engine(both: Any) -> None:
    running = both(LEAD, begin=False)

    def broken(*args: Any) -> None:
        hook.remove()
        raise RuntimeError("the text of this error stays here")

    hook = running.engine._loaded.model.register_forward_hook(broken)
    running.engine.start()
    (ended,) = running.submit(ask("a"))
    assert ended == Failed("a", "engine", "RuntimeError")
    (ended,) = running.submit(ask("b", max_tokens=3))
    assert isinstance(ended, Finished)


def test_rows_are_zero_when_nobody_uses_them(models: dict[str, Path], run: Any) -> None:
    running = run(models["gemma3"], slots=3)
    running.submit(*(ask(str(i), content, max_tokens=5 + 9 * i) for i, content in enumerate(prompts(3))))
    assert running.engine.stop()
    assert all(not states.any() for states in running.engine._loop.model._states())
