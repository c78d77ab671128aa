"""A round as a picture in text: one column per second, kills and stops above, streams and ends below."""

from __future__ import annotations

from collections import Counter

from understudy.tools.bench.chaos.load import Load
from understudy.tools.bench.chaos.strikes import Strike

BLOCKS = " ▁▂▃▄▅▆▇█"


def draw(load: Load, strikes: list[Strike], width: int = 150) -> str:
    """K is a kill, S a stop or a toxic that lasts (`=`), `-` the time until the victim was back."""
    if not load.asked:
        return ""
    last = max(one.ended for one in load.asked)
    step = max(1.0, last / width)
    columns = int(last / step) + 1
    lines = [_ruler(columns, step)]
    for kind in dict.fromkeys(strike.kind for strike in strikes):
        row = [" "] * columns
        for strike in (s for s in strikes if s.kind == kind and s.victim):
            first, end = int(strike.at / step), min(columns - 1, int(strike.until / step))
            for i in range(first, end + 1):
                row[i] = "-" if strike.word == "kill" else "="
            row[min(first, columns - 1)] = "K" if strike.word == "kill" else strike.word[0].upper()
        lines.append(f"{kind:>14} {''.join(row)}")
    ours = [one for one in load.asked if one.arm == "ours"]
    flight = [sum(o.begun <= (i + 1) * step and o.ended >= i * step for o in ours) for i in range(columns)]
    good = Counter(int(o.ended / step) for o in ours if o.exact)
    bad = Counter(int(o.ended / step) for o in ours if not o.exact)
    lines.append(f"{'in flight':>14} {_bars(flight)}  at most {max(flight)}")
    finished = [good[i] for i in range(columns)]
    lines.append(f"{'finished':>14} {_bars(finished)}  at most {max(finished)} per {step:.0f} s")
    lines.append(f"{'not finished':>14} {''.join(_digit(bad[i]) for i in range(columns))}")
    return "\n".join(lines)


def _ruler(columns: int, step: float) -> str:
    marks = "".join(f"{f'|{i * step:.0f} s':<20}" for i in range(0, columns, 20))
    return f"{'':>14} {marks}"


def _bars(values: list[int]) -> str:
    top = max(values) or 1
    return "".join(BLOCKS[-(-v * (len(BLOCKS) - 1) // top)] for v in values)


def _digit(value: int) -> str:
    return " " if not value else str(value) if value < 10 else "+"
