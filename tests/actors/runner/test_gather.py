"""Text on its way out: the first piece at once, a flood in few messages, a slow stream untouched, nothing lost."""

from __future__ import annotations

import asyncio

from understudy.actors.runner.gather import GAP_S, Gather
from understudy.bus import sim_loop


def told(*pieces: tuple[float, str]) -> list[tuple[float, str, int]]:
    """What leaves, and when (seconds), for pieces that come after waits."""
    out: list[tuple[float, str, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        gather = Gather(lambda text, tokens, kind, call: out.append((round(loop.time() - began, 4), text, tokens)))
        for wait_s, text in pieces:
            await asyncio.sleep(wait_s)
            gather.add(text, 1)
        gather.flush()
        await asyncio.sleep(1)

    sim_loop.run(main, 60)
    return out


def test_a_slow_stream_is_passed_on_untouched() -> None:
    assert told((0, "a"), (0.01, "b"), (0.025, "c")) == [(0, "a", 1), (0.01, "b", 1), (0.035, "c", 1)]


def test_a_flood_is_the_first_piece_and_then_one_message_per_gap() -> None:
    flood = told((0, "0"), *((0.001, str(n)) for n in range(1, 10)))
    assert flood[0] == (0, "0", 1), "the first word waits for nobody"
    assert [at for at, _, _ in flood[1:-1]] == [GAP_S]
    assert "".join(text for _, text, _ in flood) == "0123456789"
    assert sum(tokens for _, _, tokens in flood) == 10


def test_an_end_takes_what_is_held_with_it_once() -> None:
    assert told((0, "a"), (0.001, "b"), (0, "")) == [(0, "a", 1), (0.001, "b", 1)]
