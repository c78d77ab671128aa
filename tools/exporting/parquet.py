"""Parquet: a folder of parts, which pandas, DuckDB, Spark and others read as one table. Needs the extra `analysis`.

A part is written beside its place and renamed there when it is whole, so that whoever reads the folder meanwhile finds
whole parts. `_manifest.json` and drafts begin with `_`, which those readers pass over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any

from understudy.actors.host.log_sync import sync_folder
from understudy.bus.port import Received
from understudy.messages.columns import ATTEMPT, COLUMNS, FACTS, AttemptFacts, Kind, facts_of, values
from understudy.tools.common import Refused, needs
from understudy.tools.exporting import Manifest

MANIFEST = "_manifest.json"
BATCH_ROWS = 10_000
"""So many rows are taken apart at once: what is made for them stays in the processor's caches."""


_HOW = {
    "use_dictionary": [
        c.name for c in COLUMNS if c.kind == "text" and c.name not in ("run_id", "conversation", "user")
    ],
    "write_statistics": [c.name for c in COLUMNS if c.kind not in ("bytes", "words", "attempts")],
}
"""What costs time and helps nobody is left out: dictionaries of ids, the least and the greatest payload."""


class ParquetWriter:
    """One part at a time into a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises Refused without pyarrow."""
        self._folder, self._fd = folder, -1
        self._pa, self._pq = needs("pyarrow", "analysis"), needs("pyarrow.parquet", "analysis")
        self._types = arrow_types()

    def handle(self) -> int:
        """See `Writer`."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)  # as the files of the other formats
        self._fd = os.open(self._folder, os.O_RDONLY)
        return self._fd

    def open(self, manifest: Manifest) -> None:
        """See `Writer`."""
        known = {part_name(n) for n in range(manifest.parts)}
        there = {path.name for path in self._folder.glob("part-*")}
        if not known <= there:
            raise Refused("damaged", f"{self._folder} has lost {min(known - there)}, which its manifest knows")
        for name in there - known:
            (self._folder / name).unlink()

    def append(self, rows: list[Received], manifest: Manifest) -> None:
        """See `Writer`."""
        batches = [self._batch(rows[i : i + BATCH_ROWS]) for i in range(0, len(rows), BATCH_ROWS)]
        about = {"stream": manifest.stream, "created": manifest.created, "rows_before": str(manifest.rows)}
        table = self._pa.Table.from_batches(batches).replace_schema_metadata(about)
        place = self._folder / part_name(manifest.parts)
        draft = place.with_name(f"_{place.stem}.draft")
        self._pq.write_table(table, draft, compression="zstd", compression_level=1, **_HOW)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(place)
        sync_folder(self._folder)
        manifest.parts += 1

    def close(self) -> None:
        """See `Writer`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _batch(self, rows: Sequence[Received]) -> Any:
        return self._pa.record_batch(
            [self._array(self._types[one.name], found) for one, found in zip(COLUMNS, table_of(rows), strict=True)],
            names=[one.name for one in COLUMNS],
        )

    def _array(self, kind: Any, found: list[Any]) -> Any:
        pa = self._pa
        if pa.types.is_decimal(kind):
            return pa.array(found, pa.string()).cast(kind)
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            return self._attempts(kind, found)
        return pa.array(found, kind)

    def _attempts(self, kind: Any, found: list[tuple[AttemptFacts, ...] | None]) -> Any:
        """A list array of flat columns: a dict for each attempt would take longer than all the rest."""
        pa = self._pa
        ends = accumulate(0 if attempts is None else len(attempts) for attempts in found)
        flat = list(chain.from_iterable(attempts for attempts in found if attempts))
        fields = [kind.value_type.field(one.name) for one in ATTEMPT]
        parts = [pa.array(list(map(attrgetter(field.name), flat)), field.type) for field in fields]
        inner = pa.StructArray.from_arrays(parts, fields=fields)
        absent = pa.array([attempts is None for attempts in found])
        return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), inner, type=kind, mask=absent)


def table_of(rows: Sequence[Received]) -> list[list[Any]]:
    """All columns of so many messages, in the order of `COLUMNS`."""
    payloads = [one.payload for one in rows]
    found = values([facts_of(payload) for payload in payloads], payloads)
    place = [[one.seq for one in rows], [one.at_ms for one in rows], [one.subject for one in rows]]
    return [*place, *(found[one.name] for one in FACTS), [one.foreign for one in rows], payloads]


def arrow_types() -> dict[str, Any]:
    """Column -> its Arrow type."""
    pa = needs("pyarrow", "analysis")
    plain: dict[Kind, Any] = {
        "integer": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        "flag": pa.bool_(),
        "time": pa.timestamp("ms", tz="UTC"),
        "usd": pa.decimal128(21, 12),
        "words": pa.list_(pa.string()),
        "bytes": pa.binary(),
    }
    attempt = pa.struct([pa.field(one.name, plain[one.kind]) for one in ATTEMPT])
    plain["attempts"] = pa.list_(attempt)
    return {one.name: plain[one.kind] for one in COLUMNS}


def part_name(number: int) -> str:
    """In the order of the log."""
    return f"part-{number:06d}.parquet"
