"""The contract for other languages: JSON Schema of every message, AsyncAPI 3 of every subject.

understudy schemas                      # JSON Schema on standard output
understudy schemas --asyncapi
understudy schemas --write deploy/schemas     # both, as files
understudy schemas --check deploy/schemas     # exit 1 when the files differ from the code
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from understudy.actors.host.topology import TopologyError, read
from understudy.messages.schemas import asyncapi, json_schema


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--topology", type=Path, default=Path("topology.yaml"), help="default: ./topology.yaml")
    parser.add_argument("--asyncapi", action="store_true", help="print AsyncAPI instead of JSON Schema")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write both documents")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare both documents with the code")


def run(args: argparse.Namespace) -> int:
    """Print, write or compare."""
    try:
        topology = read(args.topology)
    except TopologyError as error:
        print(error, file=sys.stderr)
        return 2
    documents = {"messages.schema.json": json_schema(), "asyncapi.json": asyncapi(topology)}
    if args.check is not None:
        stale = [n for n, d in documents.items() if not _same(args.check / n, d)]
        for name in stale:
            print(f"{args.check / name} differs from the code: run `understudy schemas --write {args.check}`")
        return 1 if stale else 0
    if args.write is not None:
        args.write.mkdir(parents=True, exist_ok=True)
        for name, document in documents.items():
            (args.write / name).write_text(_text(document))
        return 0
    print(_text(documents["asyncapi.json" if args.asyncapi else "messages.schema.json"]), end="")
    return 0


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _same(path: Path, document: dict[str, Any]) -> bool:
    return path.exists() and path.read_text() == _text(document)
