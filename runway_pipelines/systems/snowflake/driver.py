"""The Snowflake driver's first answer in a process, which no two threads may decode at once."""

from __future__ import annotations

import logging
from functools import cache
from threading import Lock

log = logging.getLogger(__name__)
_preparing = Lock()


def prepare_driver() -> None:
    """Decode a table of no rows, once for a process; called before any answer is decoded.

    Version 4.8 of the driver makes its logger with the first table (``std::call_once`` in nanoarrow_cpp/Logging) and
    calls Python for it, which may let another thread run; one that decodes its own first table just then waits in
    C++ for the first, holding the interpreter's lock, without which the first cannot go on: the process stands still
    for ever. Seen with 20 first pulls at once.
    """
    with _preparing:
        _decode_nothing()


@cache
def _decode_nothing() -> None:
    import pyarrow as pa

    schema = pa.schema([pa.field("NOTHING", pa.string(), metadata={"logicalType": "TEXT"})])  # as Snowflake says it
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([], pa.string())], schema=schema))
    from snowflake.connector import errors

    try:
        from snowflake.connector.arrow_context import ArrowConverterContext
        from snowflake.connector.nanoarrow_arrow_iterator import PyArrowTableIterator  # type: ignore[import-not-found]

        context = ArrowConverterContext({"TIMEZONE": "UTC"})
        PyArrowTableIterator(None, sink.getvalue().to_pybytes(), context, False, False, False, True)
    except (ImportError, TypeError, errors.Error) as error:
        # Nothing of this is the driver's public interface.
        log.warning("another version of the Snowflake driver was not prepared: %s", type(error).__name__)
