"""What the encoder asks of Arrow columns: their types as the contract has them, and where values change. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.rosters.query import ROW_SCHEMA


def in_schema(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns in our order and types; Snowflake sends each batch in the smallest integer type that fits."""
    positions = {name.lower(): position for position, name in enumerate(batch.schema.names)}
    missing = [name for name in ROW_SCHEMA.names if name not in positions]
    if missing:
        raise RowsUnreadable(
            expected=f"the columns {', '.join(ROW_SCHEMA.names)}",
            came=f"a result without {', '.join(missing)}",
            remedy="compare the statement with the warehouse's tables",
        )
    columns = [_with_type(column, batch.column(positions[column.name])) for column in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _with_type(column: pa.Field, values: pa.Array) -> pa.Array:
    """Text must be text and whole numbers whole numbers: an id sent as a number has lost its leading zeros."""
    found = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    fits = _is_text_type if pa.types.is_string(column.type) else _is_whole_number
    try:
        if fits(found) or pa.types.is_null(found):
            return values.cast(column.type)
    except pa.ArrowInvalid:
        pass
    raise RowsUnreadable(
        expected=f"{column.name} as {column.type}",
        came=f"values of type {values.type} that do not fit",
        remedy="compare the warehouse's tables with the rosters contract, section 1 (docs/contracts)",
    )


def _is_text_type(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_whole_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or (pa.types.is_decimal(found) and found.scale == 0))


def starts(column: pa.Array) -> np.ndarray:
    """Where a value differs from the one before it; the first always counts. The column has no nulls."""
    differs = np.ones(len(column), dtype=bool)
    if len(column) > 1:
        differs[1:] = as_mask(pc.not_equal(column[1:], column[:-1]))
    return differs


def changes(values: np.ndarray) -> np.ndarray:
    """`starts` for numbers."""
    differs = np.ones(values.size, dtype=bool)
    differs[1:] = values[1:] != values[:-1]
    return differs


def as_mask(mask: pa.Array) -> np.ndarray:
    """Truth values for numpy."""
    return np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool)


def integers(values: pa.Array) -> np.ndarray:
    """Whole numbers for numpy."""
    return np.asarray(values.to_numpy(zero_copy_only=False))


def count_true(mask: pa.Array) -> int:
    """How many are true; a null is not."""
    return int(mask.true_count)


def value_counts(values: pa.Array) -> dict[Any, int]:
    """How often each value is there."""
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}


def bytes_of(strings: pa.Array) -> memoryview:
    """The bytes of all strings of an array, end to end, without a copy."""
    _, offsets_buffer, data_buffer = strings.buffers()
    if data_buffer is None or not len(strings):
        return memoryview(b"")
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return memoryview(data_buffer)[int(offsets[0]) : int(offsets[-1])]
