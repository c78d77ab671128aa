"""The event log: outcomes, changes of models, topologies. It holds no text of any request or answer.

understudy events --since 10m --subject model.\\>
understudy events --request 01JD...  --json
understudy events --follow
understudy events --json > log.jsonl     # an export, byte for byte; `understudy replay --file log.jsonl` checks it
understudy events --format parquet --out events.parquet --since 30d   # again: goes on where it stopped
understudy events --columns              # what stands in the columns of parquet and csv
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from understudy.bus.client import Client
from understudy.bus.log_query import BadQuery, LogQuery, matching
from understudy.bus.port import Received
from understudy.bus.subjects import evt_stream
from understudy.messages.columns import ATTEMPT, COLUMNS, Column
from understudy.messages.events import Event
from understudy.messages.wire import WireError, decode, tag_of
from understudy.tools.common import UNITS_S, Refused, add_connection, complain, show, with_client
from understudy.tools.exporting import FORMATS, Manifest, Tell, Writer
from understudy.tools.exporting import export as export_to
from understudy.tools.exporting.parquet import MANIFEST, ParquetWriter
from understudy.tools.exporting.text import csv_file, jsonl
from understudy.tools.rawlog import export

OPTIONS = {"subjects": "subject", "run_id": "request", "after_seq": "after"}
"""What the parts of a query are called here, where that is not their name."""
ASKED = ("since", "until", "after", "subject", "model", "task", "request")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    when = "a time (2026-11-22T10:00Z, UTC where it names no zone) or an age (10m; s, m, h, d)"
    parser.add_argument("--since", metavar="WHEN", help=f"only events stored at or after this: {when}")
    parser.add_argument("--until", metavar="WHEN", help="only events stored before this")
    parser.add_argument("--after", type=int, metavar="SEQ", help="only events behind this position of the log")
    parser.add_argument(
        "--subject", action="append", metavar="SUBJECT", help="e.g. request.ended or 'model.>'; may be repeated"
    )
    parser.add_argument("--model", metavar="ID", help="only events that name this model")
    parser.add_argument("--task", metavar="NAME", help="only events of this task")
    parser.add_argument("--request", metavar="RUN_ID", help="only events of this run")
    parser.add_argument("--follow", action="store_true", help="go on with new events")
    parser.add_argument("--format", choices=FORMATS, help="export: jsonl as --json prints it, or columns")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to; for parquet a folder of parts")
    parser.add_argument(
        "--columns", action="store_true", help="print the columns of parquet and csv, and what they mean"
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Print, or export."""
    if args.columns:
        return _columns(args.json)
    asked = {name: getattr(args, name) for name in ASKED if getattr(args, name) is not None}
    try:
        query = query_of(args, time.time() * 1000)
        writing = _writer(args)
    except BadQuery as error:
        return _bad(error, args)
    except Refused as error:
        return complain(error.code, error.text, args)
    said = {name: [str(v) for v in value] if isinstance(value, list) else str(value) for name, value in asked.items()}

    async def job(client: Client) -> int:
        try:
            query.patterns(client.app)  # again: by then the name that subjects may begin with is known
        except BadQuery as error:
            return _bad(error, args)
        return await (_print(client, args, query) if writing is None else _export(client, args, writing, query, said))

    return with_client(args, job, operator=True)


def _bad(error: BadQuery, args: argparse.Namespace) -> int:
    option = OPTIONS.get(error.path.partition("[")[0], error.path)
    complain("invalid", f"--{option}: {error.text}", args)
    return 2


def query_of(args: argparse.Namespace, now_ms: float) -> LogQuery:
    """What the arguments ask for. Raises BadQuery."""
    query = LogQuery(
        since_ms=_when("since", args.since, now_ms),
        until_ms=_when("until", args.until, now_ms),
        after_seq=args.after or 0,
        subjects=tuple(args.subject or ()),
        model=args.model,
        task=args.task,
        run_id=args.request,
    )
    query.patterns("tta")
    if args.follow and (args.until or args.out):
        raise BadQuery("follow", "goes on for ever: leave out --until and --out")
    return query


def _when(name: str, text: str | None, now_ms: float) -> int:
    """Unix milliseconds; 0 for none. Raises BadQuery."""
    if text is None:
        return 0
    age = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if age is not None:
        return max(1, int(now_ms) - int(age[1]) * UNITS_S[age[2]] * 1000)
    try:
        at = datetime.fromisoformat(text)
        return max(1, int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        text = f"{text!r}: write a time like 2026-11-22T10:00Z, or a number and one of s, m, h, d, for example 10m"
        raise BadQuery(name, text) from None


# --- exports -------------------------------------------------------------------------------------------------------


def _writer(args: argparse.Namespace) -> tuple[Writer, Path] | None:
    """Who writes, and where the manifest lies; None: it is printed. Raises BadQuery, Refused."""
    if args.out is None:
        if args.format in ("csv", "parquet"):
            raise BadQuery("format", f"{args.format} needs --out FILE")
        return None
    match args.format:
        case "parquet":
            return ParquetWriter(args.out), args.out / MANIFEST
        case "csv" | "jsonl":
            writer = csv_file(args.out) if args.format == "csv" else jsonl(args.out)
            return writer, args.out.with_name(args.out.name + ".manifest.json")
        case _:
            raise BadQuery("out", "say in which --format: " + ", ".join(FORMATS))


async def _export(
    client: Client,
    args: argparse.Namespace,
    writing: tuple[Writer, Path],
    query: LogQuery,
    asked: dict[str, str | list[str]],
) -> int:
    writer, manifest_at = writing
    wanted = Manifest(format=args.format, stream=evt_stream(client.app), created="", asked=asked, query=query)
    tell = _teller()
    try:
        done = await export_to(client, args.out, manifest_at, writer, wanted, tell)
    except Refused as error:
        return complain(error.code, error.text, args)
    except OSError as error:
        return complain("invalid", f"--out {args.out}: {error.strerror}. What was written until then stays.", args)
    if args.json:
        show(done)
    else:
        print(f"{done.new_rows:,} events added to {done.out}: {done.rows:,}, up to position {done.through_seq:,}")
    return 0


def _teller() -> Tell:
    def tell(text: str) -> None:
        end = "\r" if sys.stderr.isatty() else "\n"
        print(text, end=end, file=sys.stderr, flush=True)

    return tell


# --- for people ----------------------------------------------------------------------------------------------------


async def _print(client: Client, args: argparse.Namespace, query: LogQuery) -> int:
    raw = args.json or args.format == "jsonl"
    span = await client.span(query)
    async for found in matching(client.bus, client.app, query, span, follow=args.follow):
        for one in found.messages:
            print(export(one).decode() if raw else _readable(one), flush=args.follow)
    sys.stdout.flush()
    return 0


def _readable(received: Received) -> str:
    try:
        event = decode(received.payload)
    except WireError:
        event = None
    if not isinstance(event, Event):
        what = "no event" if received.foreign else "of a kind that this version does not know"
        return f"{received.seq:>8}  {received.subject}: {what}"
    return line(received.seq, event)


def line(seq: int, event: Event) -> str:
    """One event as a person reads it."""
    try:
        at = datetime.fromtimestamp(event.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):  # no year that a calendar has
        at = f"at_ms={event.at_ms}"
    name = tag_of(type(event)).rsplit(".", 1)[0]
    names = ("model", "from_model", "outcome", "reason", "by", "mode", "task", "total_ms", "seams", "run_id", "hash")
    names += ("provider", "name", "key_id", "was", "status", "rating")
    facts = [f"{n}={getattr(event, n)}" for n in names if getattr(event, n, None) not in (None, "")]
    return f"{seq:>8}  {at}  {name:18}  {'  '.join(facts)}"


def _columns(as_json: bool) -> int:
    if as_json:
        show([msgspec.to_builtins(one._asdict()) for one in COLUMNS])
        return 0
    print("Columns of parquet and csv. Empty (null) where an event has no such field; its payload has all of it.\n")
    _print_columns(COLUMNS)
    print("\nEach of `attempts`:\n")
    _print_columns(ATTEMPT)
    print(
        "\nCSV: lists as JSON, times as ISO 8601, and `payload_base64` where a payload is no text. A text that begins"
    )
    print("like a spreadsheet's formula (= + - @) has a ' before it.")
    return 0


def _print_columns(columns: tuple[Column, ...]) -> None:
    for one in columns:
        print(f"  {one.name:18}{one.kind:10}{one.meaning}")
