"""Judge a scanner by labelled rows: how much it finds, how often it cries wolf, what redaction leaves, what it costs.

    understudy evaluate secrets --data secrets.jsonl
    understudy evaluate secrets --data messages.jsonl     # rows without a label: every row is a negative
    understudy evaluate pii --data pii.jsonl --json

Rows are JSON objects, one a line. `text` (or `text_b64`), `label` 1 or 0, `source`, `type`, and what must not survive:
`secret_b64` for secrets, `value` for pii. No text of any row is printed. The scanner is warmed up first, each row is
scanned three times and its quickest time counts: the median is the scanner's, not the machine's other work.

Two controls show that the figures can fail: `planted_found` of `planted` examples of the pack's own rules, put into the
rows that hold nothing, must all be found; and the search for survivors must see every named secret before redaction
(`survivors_before` of `named`).

`general`: positives found with every vendor's own rule taken out, by source: what to expect of a vendor that no
rule knows.

Exit code 0 when every bar holds, 1 when one does not, 2 when the rows cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from understudy.actors.safety_validator import ScanError, Scanner, redact, scanner
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.views import everything
from understudy.tools.bench.report import Bar, bar, median, quantile
from understudy.tools.common import show

NAMES = frozenset({"name_self", "name_other"})
"""PII without a format, reported apart."""
ROUNDS = 3
MAX_PLANTED = 200


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a row; other columns are for others."""

    text: str | None = None
    text_b64: str | None = None
    label: int | None = None
    source: str = ""
    type: str = ""
    secret_b64: str | None = None
    value: str | None = None

    def words(self) -> str:
        """The text; raises ValueError."""
        if self.text is not None:
            return self.text
        if self.text_b64 is None:
            raise ValueError("neither `text` nor `text_b64`")
        return base64.b64decode(self.text_b64, validate=True).decode()

    def secret(self) -> str:
        """What must not survive; empty where the row does not name it."""
        return base64.b64decode(self.secret_b64).decode() if self.secret_b64 else self.value or ""


class Judged(msgspec.Struct, frozen=True):
    """What the scanner made of one row."""

    row: Row
    found: bool
    us: float
    before: bool = False  # the named secret is seen in the row as it is
    survived: bool = False  # and in the redacted one


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios are between 0 and 1, None without rows; `counts` holds what they are made of: found, of."""

    pack: str
    rows: int
    recall: dict[str, float]  # by source for secrets, by type for pii
    recall_type: dict[str, float]
    recall_generated: float | None = None
    recall_obf: float | None = None
    recall_gitleaks: float | None = None
    recall_format: float | None = None  # pii: the types with a format, pooled
    false_alarm: dict[str, float]
    general: dict[str, tuple[int, int]]  # found by the general rules alone, of; by source
    counts: dict[str, tuple[int, int]]
    us_p50: float
    us_p99: float
    us_max: float
    warm_up_ms: float
    named: int  # positives that name their secret and were found
    unnamed: int  # positives that name none
    survivors_before: int
    survived_redaction: int
    planted: int
    planted_found: int
    bars: tuple[Bar, ...]


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("pack", choices=("secrets", "pii"), help="which scanner")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="labelled rows, JSON lines")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Judge and report."""
    try:
        rows = read(args.data)
    except (OSError, ValueError) as error:
        print(f"bad_rows: {error}", file=sys.stderr)
        return 2
    report = evaluate(args.pack, rows)
    if args.json:
        show(report)
    else:
        print(*_lines(report), sep="\n")
    return 0 if all(one.holds for one in report.bars) else 1


def read(path: Path) -> list[Row]:
    """The rows; raises ValueError with the number of the bad line, never with its text."""
    rows = list[Row]()
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=Row)
            _ = row.words(), row.secret()
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
            fault = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
            raise ValueError(f"{path}:{number}: {fault}") from None
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def evaluate(pack: str, rows: Sequence[Row]) -> Report:
    """Scan, redact and scan again; a row that cannot be scanned raises `ScanError`."""
    made = scanner(pack)
    began = time.perf_counter()
    made.warm_up()
    warm_up_ms = (time.perf_counter() - began) * 1000
    judged = [_judge(made, row) for row in rows]
    positive = [one for one in judged if one.row.label == 1]
    negative = [one for one in judged if one.row.label != 1]
    groups = {
        "recall_generated": [one for one in positive if _generated(one) and not _hidden(one)],
        "recall_obf": [one for one in positive if _generated(one) and _hidden(one)],
        "recall_gitleaks": [one for one in positive if one.row.source == "gitleaks"],
        "recall_format": [one for one in positive if pack == "pii" and one.row.type not in NAMES],
    }
    recall_type = _shares(positive, "type")
    found = {name: _share(group) for name, group in groups.items()}
    named = [one for one in positive if one.found and one.row.secret()]
    times = [one.us for one in judged]
    planted, planted_found = _planted(made, [one.row for one in negative if not one.found])
    counts = {name: (sum(one.found for one in group), len(group)) for name, group in groups.items() if group}
    counts |= {f"false_alarm.{source}": _count(negative, source) for source in sorted({r.source for r in rows})}
    counts = {name: count for name, count in counts.items() if count[1]}
    if plain := [one for one in negative if one.row.label is None]:
        counts["false_alarm_unlabelled"] = sum(one.found for one in plain), len(plain)
    general = Scanner([one for one in made.rules if one.rule.general]) if pack == "secrets" else None
    report = Report(
        pack=pack,
        rows=len(rows),
        recall=recall_type if pack == "pii" else _shares(positive, "source"),
        recall_type=recall_type,
        **found,
        false_alarm=_shares(negative, "source"),
        general=_general(general, [one.row for one in positive]) if general else {},
        counts=counts,
        us_p50=round(median(times), 1),
        us_p99=round(quantile(times, 0.99), 1),
        us_max=round(max(times), 1),
        warm_up_ms=round(warm_up_ms, 1),
        named=len(named),
        unnamed=sum(not one.row.secret() for one in positive),
        survivors_before=sum(one.before for one in named),
        survived_redaction=sum(one.survived for one in named),
        planted=planted,
        planted_found=planted_found,
        bars=(),
    )
    return msgspec.structs.replace(report, bars=tuple(_bars(report)))


def _judge(made: Scanner, row: Row) -> Judged:
    text, secret = row.words(), row.secret()
    times, findings = list[float](), made.scan("")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        findings = made.scan(text)
        times.append((time.perf_counter() - began) * 1e6)
    if not findings or not secret or row.label != 1:
        return Judged(row, bool(findings), min(times))
    return Judged(row, True, min(times), _seen(secret, text), _seen(secret, redact(text, findings, made.scan)))


def _seen(secret: str, text: str) -> bool:
    """Whether a text or any decoded view of it holds the secret, white space apart."""
    bare = b"".join(secret.encode("latin-1", "replace").split())
    return any(bare in b"".join(data.split()) for data in everything(text))


def _general(made: Scanner, rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    found = Counter(row.source for row in rows if made.scan(row.words()))
    return {source: (found[source], of) for source, of in sorted(Counter(row.source for row in rows).items())}


def _planted(made: Scanner, rows: Sequence[Row]) -> tuple[int, int]:
    """Examples of the pack's rules put behind the words of rows that hold nothing: how many, how many found."""
    hits = [example(one.rule.hits[0], seed) for seed in range(3) for one in made.rules]
    texts = [row.words() for row in rows[:MAX_PLANTED]] or ["Look around."]
    pairs = [(texts[at % len(texts)], hit) for at, hit in enumerate(hits)]
    return len(pairs), sum(any(one.end > len(text) for one in made.scan(f"{text}\n{hit}")) for text, hit in pairs)


def _generated(one: Judged) -> bool:
    return one.row.source == "generated"


def _hidden(one: Judged) -> bool:
    return one.row.type.startswith("obf_")


def _share(group: Sequence[Judged]) -> float | None:
    return round(sum(one.found for one in group) / len(group), 4) if group else None


def _shares(judged: Sequence[Judged], column: str) -> dict[str, float]:
    names = sorted({getattr(one.row, column) for one in judged})
    return {name: _share([one for one in judged if getattr(one.row, column) == name]) or 0.0 for name in names}


def _count(judged: Sequence[Judged], source: str) -> tuple[int, int]:
    group = [one for one in judged if one.row.source == source]
    return sum(one.found for one in group), len(group)


def _bars(report: Report) -> list[Bar]:
    """What is asked of the scanners; a bar without rows is left out."""
    bars = [
        bar("survived_redaction", report.survived_redaction, "rows", 0),
        bar("planted_missed", report.planted - report.planted_found, "rows", 0),
        bar("survivors_unseen", report.named - report.survivors_before, "rows", 0),
    ]
    if report.pack == "pii":
        asked = {"recall_format": 0.95}
    else:
        asked = {"recall_generated": 240 / 245, "recall_obf": 30 / 35, "recall_gitleaks": 140 / 147}
        bars.append(bar("us_p50", report.us_p50, "us", 60))
        if "generated" in report.false_alarm:
            bars.append(bar("false_alarm_generated", report.false_alarm["generated"], "ratio", round(4 / 159, 4)))
        if "false_alarm_unlabelled" in report.counts:
            found, of = report.counts["false_alarm_unlabelled"]
            bars.append(bar("false_alarm_unlabelled", found / of, "ratio", 1 / 800))
    for name, limit in asked.items():
        value = getattr(report, name)
        if value is not None:
            bars.append(bar(name, value, "ratio", round(limit, 4), better="higher"))
    return bars


def _lines(report: Report) -> list[str]:
    """For people."""
    lines = [f"{report.pack}: {report.rows} rows, median {report.us_p50} us, p99 {report.us_p99} us"]
    lines += [f"  {name:34}{value:>8.4f}" for name, value in sorted(report.recall.items())]
    lines += [f"  {name:34}{found:>5} of {of}" for name, (found, of) in sorted(report.counts.items())]
    lines += [
        f"  {'general rules alone: ' + name:34}{found:>5} of {of}" for name, (found, of) in report.general.items()
    ]
    lines.append(
        f"  {'survived redaction':34}{report.survived_redaction:>5} of {report.named} ({report.unnamed} name none)"
    )
    lines += [
        f"{'ok ' if one.holds else 'NO '}{one.id:34}{one.value:>8g} {one.unit} (bar {one.bar:g})" for one in report.bars
    ]
    return lines


__all__ = ["Report", "Row", "ScanError", "evaluate", "read"]
