"""A workaround: two threads that decode a process's first Snowflake answers at the same time deadlock."""

from __future__ import annotations

import logging
from functools import cache
from threading import Lock

log = logging.getLogger(__name__)
_preparing = Lock()


def prepare_driver() -> None:
    """Decode an empty table, once per process, before any answer is decoded.

    Version 4.8 of the driver creates its logger with the first table (``std::call_once`` in nanoarrow_cpp/Logging) and
    calls Python to do it, which may let another thread run. If that thread decodes its own first table, it waits in
    C++ for the first thread while it holds the interpreter's lock, which the first thread needs: the process hangs
    forever. Seen with 20 first pulls at once.
    """
    with _preparing:
        _decode_nothing()


@cache
def _decode_nothing() -> None:
    import pyarrow as pa

    schema = pa.schema([pa.field("NOTHING", pa.string(), metadata={"logicalType": "TEXT"})])  # as Snowflake declares it
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
        # None of this is the driver's public interface.
        log.warning("this version of the Snowflake driver could not be prepared: %s", type(error).__name__)
