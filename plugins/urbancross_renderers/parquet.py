"""Tables as Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from urbancross_bench.interfaces import Renderer, Table
from urbancross_bench.interfaces.renderer import printable
from urbancross_renderers.content import Value, typed

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}


class Parquet(Renderer):
    """The columns of the CSV and JSON files, typed; title and notes (a JSON list) are metadata of the schema."""

    suffix: ClassVar[str] = ".parquet"

    def render(self, table: Table) -> bytes:
        """The same content everywhere; its bytes depend on the version of pyarrow."""
        columns = typed(table)
        arrays = [pa.array(values, type=_type(values)) for values in columns.values()]
        said = {"title": printable(table.title), "notes": json.dumps([printable(note) for note in table.notes])}
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(arrays, names=[*columns]).replace_schema_metadata(said), out)
        return bytes(out.getvalue())

    def same(self, written: bytes, made: bytes) -> bool:
        """Whether both hold the same columns, values, title and notes."""
        try:
            return bool(_read(written).equals(_read(made), check_metadata=True))
        except pa.ArrowInvalid:
            return False


def _type(values: Sequence[Value]) -> pa.DataType:
    return next((_TYPES[type(value)] for value in values if value is not None), pa.null())


def _read(content: bytes) -> pa.Table:
    # Not `read_table`: that starts threads of a pool, which now and then abort a process that ends soon after.
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
