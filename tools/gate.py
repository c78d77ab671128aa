"""Everything CI runs, in the order of its price, with the time of each part: `python -m understudy.tools.gate`.

python -m understudy.tools.gate            # all
python -m understudy.tools.gate lint types # only these parts
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("messages", "bus", "actors", "tools")
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES = 400, 60, 14
"""The house rule is 300 and 40; these are where the gate closes."""


def _run(*command: str) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _tool(name: str, *args: str) -> bool:
    return _run(str(Path(sys.executable).parent / name), *args)


def _too_long(folder: str) -> list[str]:
    sizes = {path.relative_to(ROOT): path.read_text().count("\n") for path in sorted((ROOT / folder).rglob("*.py"))}
    return [f"{path}: {lines} lines, at most {FILE_LINES}" for path, lines in sizes.items() if lines > FILE_LINES]


def sizes() -> bool:
    """Files, those of the tests too, and functions within the budget."""
    problems = [problem for folder in (*SOURCES, "tests") for problem in _too_long(folder)]
    lengths: list[int] = []
    for path in sorted(p for s in SOURCES for p in (ROOT / s).rglob("*.py")):
        name = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                lengths.append(size)
                if size > FUNCTION_LINES:
                    problems.append(f"{name}:{node.lineno} {node.name}: {size} lines, at most {FUNCTION_LINES}")
    median = statistics.median(lengths)
    if median > MEDIAN_LINES:
        problems.append(f"median function: {median} lines, at most {MEDIAN_LINES}")
    print(f"{len(lengths)} functions, median {median} lines", *problems, sep="\n")
    return not problems


def light_client() -> bool:
    """Importing the client pulls neither torch nor uvloop nor a server (nats-py itself takes aiohttp where present)."""
    heavy = "{'torch', 'transformers', 'uvloop', 'yaml', 'anyio', 'psutil', 'neo4j', 'pyarrow', 'pandas'}"
    code = f"import sys, understudy.bus.client; bad = {heavy} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    return _run(sys.executable, "-c", code)


def wheel() -> bool:
    """The wheel installs `understudy/` alone."""
    code = (
        "import pathlib, subprocess, sys, tempfile, zipfile\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', d, '.'], check=True)\n"
        "    names = zipfile.ZipFile(next(pathlib.Path(d).glob('*.whl'))).namelist()\n"
        "tops = {n.split('/')[0] for n in names if not '.dist-info/' in n}\n"
        "print(len(names), 'files under', tops)\n"
        "sys.exit(0 if tops == {'understudy'} else 1)"
    )
    return _run(sys.executable, "-c", code)


TOGETHER = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""Two files of tests at a time: a good part of them waits for processes. What a file has started, its tests share."""

PARTS: dict[str, Callable[[], bool]] = {
    "format": lambda: _tool("ruff", "format", "--check", "."),
    "lint": lambda: _tool("ruff", "check", "."),
    "types": lambda: _tool("pyright", "-p", ".src", "--pythonpath", sys.executable),
    "imports": lambda: _tool("lint-imports", "--no-cache"),
    "sizes": sizes,
    "client": light_client,
    "topology": lambda: _tool("understudy", "check"),
    "schemas": lambda: _tool("understudy", "schemas", "--check", "deploy/schemas"),
    "wheel": wheel,
    "tests": lambda: _run(sys.executable, "-m", "pytest", "-q", "--durations=10", *TOGETHER),
}


def main() -> None:
    """Run the parts named, or all; the tests come last, so that their summary is the last word."""
    wanted = sys.argv[1:] or list(PARTS)
    took: dict[str, tuple[bool, float]] = {}
    for name in wanted:
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        took[name] = PARTS[name](), time.monotonic() - began
    print("--- parts")
    for name, (ok, seconds) in took.items():
        print(f"{'ok  ' if ok else 'FAIL'} {name:10} {seconds:6.1f} s")
    sys.exit(0 if all(ok for ok, _ in took.values()) else 1)


if __name__ == "__main__":
    main()
