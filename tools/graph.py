"""Ask the performance graph, and how it stands.

understudy graph                             # how far it is behind the log, where it lives
understudy graph questions                   # the eight questions, their parameters
understudy graph worse --window 1d           # models that got worse than the day before
understudy graph qualify --set task=narrative --set max_usd=0 --json
understudy graph cypher worse                # the same as Cypher, to go on from in a shell of your own
understudy graph cypher > deploy/graph/questions.cypher   # all eight, as the documentation has them
understudy graph shell-uri                   # what cypher-shell or the Neo4j browser need to connect
understudy graph rebuild                     # from the log, beside the one that serves
understudy graph sum                         # the checksum over all of it

A window ends with the hour that runs now. `--uri` asks a graph that no `up` of this machine has.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from understudy.actors.host.graph_side import NO_DRIVER
from understudy.actors.projector.cypher import VERSION, of, version_of
from understudy.actors.projector.questions import HOUR, QUESTIONS, Question
from understudy.bus.client import AnswerFailed, Client
from understudy.messages.base import Ask
from understudy.messages.buckets import quantile_ms
from understudy.messages.generate import Failed
from understudy.messages.graph import AskGraphStatus, GraphStatus, GraphSum, RebuildGraph, SumGraph
from understudy.messages.wire import decode, encode
from understudy.tools.common import add_connection, complain, duration_s, run_file, show, with_client

ORDERS: dict[str, tuple[type[Ask], str]] = {
    "status": (AskGraphStatus, "graph.status"),
    "rebuild": (RebuildGraph, "graph.rebuild"),
    "sum": (SumGraph, "graph.sum"),
}
WORDS = ("questions", "cypher", "shell-uri")
SUM_S = 300.0
MOST = 10**15
"""Of a number that is given to a question: far within the 64 bits of a graph, and no NaN."""


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    words = [*ORDERS, *WORDS, *QUESTIONS]
    parser.add_argument("what", nargs="?", default="status", choices=words, metavar="WHAT",
                        help=f"one of {', '.join(words)} (default: status)")  # fmt: skip
    parser.add_argument(
        "of", nargs="?", default="", metavar="QUESTION", help="of `cypher`: which question (default: all)"
    )
    parser.add_argument("--window", default="7d", metavar="7d", help="so far back: a number and s, m, h or d")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the question")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg (extra `analysis`)")
    parser.add_argument("--uri", default="", help="Bolt address of the graph (default: that of the `up` started here)")
    parser.add_argument("--user", default="", help="with --uri: who logs in; nobody without")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="with --uri: holds the password")
    parser.add_argument("--database", default="neo4j", help="with --uri (default: neo4j)")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; exit code 1 where there is no graph to ask."""
    if args.what in ORDERS:
        return with_client(args, lambda client: _order(client, args), operator=True)
    if args.what == "questions":
        return _list(args)
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        return complain("unknown_format", f"--plot {args.plot}: end its name with .png or .svg", args)
    try:
        home = _home(args)
    except OSError as error:
        return complain("unreadable", f"--password-file {error.filename}: {error.strerror}", args)
    if args.what == "cypher":
        return _cypher(home, args)
    if home["missing"]:
        return complain("no_graph", home["missing"], args)
    if args.what == "shell-uri":
        return _shell(home, args)
    return _question(home, args)


# --- orders ----------------------------------------------------------------------------------------------------------


async def _order(client: Client, args: argparse.Namespace) -> int:
    cls, name = ORDERS[args.what]
    timeout_s = SUM_S if args.what == "sum" else 5.0
    received = await client.bus.request(f"{client.app}.ask.{name}", encode(cls()), timeout_s=timeout_s)
    answer = decode(received.payload)
    if isinstance(answer, Failed):
        raise AnswerFailed(answer)
    if args.json:
        show(answer)
    else:
        print(_told(answer))
    return 3 if isinstance(answer, GraphStatus) and answer.state in ("off", "trouble") else 0


def _told(answer: Any) -> str:
    if isinstance(answer, GraphSum):
        counts = ", ".join(f"{count} {name}" for name, count in answer.counts.items() if count)
        return f"{answer.checksum} at {answer.seq} of the log of {answer.epoch}\n{counts}"
    assert isinstance(answer, GraphStatus)
    lines = [f"{answer.state:12} {answer.home or '-'}  labels {answer.prefix or '-'}..., schema {answer.schema}"]
    if answer.state == "projecting":  # nobody else knows where the graph is
        lines.append(f"{'position':12} {answer.seq} of {answer.head}: {behind(answer)}")
    if answer.building:
        lines.append(f"{'building':12} {answer.building}...: {answer.building_seq} of {answer.head}")
    if answer.gaps:
        lines.append(f"{'gaps':12} {answer.gaps} events were gone from the log before they were read")
    if answer.trouble:
        lines.append(f"{'trouble':12} {answer.trouble}")
    return "\n".join(lines)


def behind(answer: GraphStatus) -> str:
    """The lag of a graph that is being projected to, in words."""
    return f"{answer.lag_events} events, {answer.lag_s:g} s behind" if answer.lag_events else "up to date"


# --- questions -------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    if args.json:
        show({name: {"about": one.about, "columns": one.columns, "parameters": one.parameters}
              for name, one in QUESTIONS.items()})  # fmt: skip
        return 0
    for name, one in QUESTIONS.items():
        print(f"{name:10} {one.about}")
        for key, (default, about) in one.parameters.items():
            print(f"{'':10}   --set {key}={default}   {about}")
    return 0


def documented() -> str:
    """All questions as Cypher for the first half, over the last seven days: what `deploy/graph/questions.cypher` is."""
    found = [
        "// Made by `understudy graph cypher > deploy/graph/questions.cypher`. Times are Unix milliseconds.",
        "// After a rebuild labels begin with Pm2, after the next with Pm: `understudy graph cypher QUESTION` knows.",
    ]
    for name, one in QUESTIONS.items():
        defaults = {key: json.dumps(default) for key, (default, _) in one.parameters.items()}
        hours = {"from": f"(timestamp() / {HOUR} + 1 - 7 * 24) * {HOUR}", "to": f"(timestamp() / {HOUR} + 1) * {HOUR}"}
        given = [f":param {key} => {value};" for key, value in (hours | defaults).items()]
        found += ["", f"// {name}: {one.about}", *given, f"{one.cypher};"]
    return "\n".join(found)


def _cypher(home: dict[str, Any], args: argparse.Namespace) -> int:
    if not args.of:
        print(documented())
        return 0
    if args.of not in QUESTIONS:
        return complain("unknown_question", f"{args.of}; name one of {', '.join(QUESTIONS)}", args)
    given = _parameters(QUESTIONS[args.of], args)
    try:
        prefix = "" if home["missing"] else asyncio.run(serving(home))
    except OtherVersion as error:
        return complain("no_graph", str(error), args)
    except _bolt_errors() as error:
        return complain("graph_down", f"{type(error).__name__}: {str(error)[:200]}", args)
    prefix = prefix or "Pm"  # as a graph begins
    if args.json:
        show({"cypher": of(QUESTIONS[args.of].cypher, prefix), "parameters": given})
    else:
        print(*(f":param {key} => {json.dumps(value)};" for key, value in given.items()), sep="\n")
        print(of(QUESTIONS[args.of].cypher, prefix) + ";")
    return 0


def _home(args: argparse.Namespace) -> dict[str, Any]:
    if importlib.util.find_spec("neo4j") is None:
        return {"missing": NO_DRIVER}
    if args.uri:
        password = args.password_file.read_text().strip() if args.password_file is not None else ""
        return {"uri": args.uri, "user": args.user, "password": password, "database": args.database, "missing": ""}
    found = run_file(args.state)
    if found is None:
        return {"missing": f"nothing runs on {args.state}: start it with `understudy up`, or name a graph by --uri"}
    return found["graph"]


def _shell(home: dict[str, Any], args: argparse.Namespace) -> int:
    """What somebody's own shell needs. The password is this machine's user's to see: it is in run.json. As a variable,
    since anybody may read the arguments of a process."""
    if args.json:
        show(home)
    else:
        login = f"NEO4J_USERNAME={home['user']} NEO4J_PASSWORD={home['password']} " if home["user"] else ""
        print(f"{login}cypher-shell -a {home['uri']} -d {home['database']}")
    return 0


def _parameters(question: Question, args: argparse.Namespace) -> dict[str, Any]:
    """Ends the command with exit code 2 for one that is not the question's, or not of its kind."""
    found = {key: default for key, (default, _) in question.parameters.items()}
    for text in args.set:
        key, _, value = text.partition("=")
        if key not in found:
            known = ", ".join(found) or "none"
            print(f"--set {key}: this question has no such parameter; it has: {known}", file=sys.stderr)
            sys.exit(2)
        try:
            found[key] = type(found[key])(value)
        except ValueError:
            print(f"--set {text}: {key} is {type(found[key]).__name__}, as in {found[key]}", file=sys.stderr)
            sys.exit(2)
        if not isinstance(found[key], str) and not 0 <= found[key] <= MOST:
            print(f"--set {text}: {key} is a number from 0 to {MOST:g}", file=sys.stderr)
            sys.exit(2)
    until = (int(time.time() * 1000) // HOUR + 1) * HOUR
    hours = max(1, -(-duration_s(args.window, "--window") // 3600))
    return {**found, "from": max(0, until - hours * HOUR), "to": until}


def _question(home: dict[str, Any], args: argparse.Namespace) -> int:
    question = QUESTIONS[args.what]
    given = _parameters(question, args)
    try:
        rows = asyncio.run(_rows(home, question, given))
    except OtherVersion as error:
        return complain("no_graph", str(error), args)
    except _bolt_errors() as error:
        return complain("graph_down", f"{type(error).__name__}: {str(error)[:200]}", args)
    if rows is None:
        return complain("no_graph", "nothing has been projected there yet; see `understudy graph`", args)
    if args.plot is not None:
        return _plot(args, question, rows)
    if args.json:
        show({"question": args.what, "from": given["from"], "to": given["to"], "rows": rows})
    else:
        print(_table(question, rows))
    return 0


def _bolt_errors() -> tuple[type[Exception], ...]:
    """What the driver raises, where there is one."""
    if importlib.util.find_spec("neo4j") is None:
        return ()
    from understudy.actors.projector.bolt import BoltError

    return BoltError


async def _rows(home: dict[str, Any], question: Question, given: dict[str, Any]) -> list[dict[str, Any]] | None:
    from neo4j import AsyncGraphDatabase

    prefix = await serving(home)
    if not prefix:
        return None
    async with AsyncGraphDatabase.driver(home["uri"], auth=_auth(home), notifications_min_severity="OFF") as driver:
        statement: Any = of(question.cypher, prefix)
        found = await driver.execute_query(statement, given, database_=home["database"])
        return [record.data() for record in found.records]


class OtherVersion(Exception):
    """A graph of another version, whose relations our Cypher would not find."""


async def serving(home: dict[str, Any]) -> str:
    """Of the labels of the half that serves; '' where nothing has been projected. Raises OtherVersion."""
    from understudy.actors.projector.bolt import Graph
    from understudy.actors.projector.place import Retention

    graph = Graph(home["uri"], home["user"], home["password"], home["database"], lambda: 0.0, Retention())
    try:
        place = await graph.look()
    finally:
        await graph.close()
    if place is None or not place.half.prefix:
        return ""
    version = version_of(place.half.schema)
    if version != str(VERSION):
        serves = f"the graph that serves there is of version {version}, these questions are for version {VERSION}"
        raise OtherVersion(f"{serves}: a projector of that version builds its own, see `understudy graph`")
    return place.half.prefix


def _auth(home: dict[str, Any]) -> tuple[str, str] | None:
    return (home["user"], home["password"]) if home["user"] else None


def _table(question: Question, rows: list[dict[str, Any]]) -> str:
    """For people: times as times, a histogram as its 50th and 95th percentile."""
    if not rows:
        return "nothing in this window (see --window)"
    names = [name if name != "hist" else "p50 / p95 ms" for name in question.columns]
    cells = [names, *([_cell(name, row[name]) for name in question.columns] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(names))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(name: str, value: Any) -> str:
    match name, value:
        case _, None:
            return "-"
        case "at", int():
            return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        case "hist", list():
            return f"{quantile_ms(value, 0.5) or 0:.0f} / {quantile_ms(value, 0.95) or 0:.0f}"
        case "path", list():
            return " > ".join(value)
        case _, bool():
            return "yes" if value else "no"
        case _, float():
            return f"{value:.4g}"
        case _:
            return str(value)


def _plot(args: argparse.Namespace, question: Question, rows: list[dict[str, Any]]) -> int:
    from understudy.tools.graph_plot import draw

    try:
        draw(args.what, question.about, rows, args.plot)
    except ModuleNotFoundError:
        return complain("no_plots", "matplotlib is not installed: pip install 'understudy[analysis]'", args)
    except OSError as error:
        return complain("unwritable", f"--plot {args.plot}: {error.strerror}", args)
    print(args.plot)
    return 0
