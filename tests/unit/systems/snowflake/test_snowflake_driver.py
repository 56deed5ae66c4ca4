"""Two threads that decode the first tables of a process must not stop it for ever, as the driver alone lets them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.waiting import PATIENCE_SECONDS

# The driver's logger is slow to be made, so that another thread gets there meanwhile. Where that stops all threads for
# ever, only C sees it: `faulthandler`, whose clock each step of the slow thread sets back.
FIRST_TABLES = """
import faulthandler, threading, time
import pyarrow as pa
from snowflake.connector import snow_logging
from snowflake.connector.arrow_context import ArrowConverterContext
from snowflake.connector.nanoarrow_arrow_iterator import PyArrowTableIterator
from runway_pipelines.systems.snowflake.driver import prepare_driver

make = snow_logging.getSnowLogger
def slowly(name):
    for _ in range(STEPS):
        WATCH
        time.sleep(0.05)
    faulthandler.cancel_dump_traceback_later()
    return make(name)
snow_logging.getSnowLogger = slowly

sink = pa.BufferOutputStream()
schema = pa.schema([pa.field("TENANT_CODE", pa.string(), metadata={"logicalType": "TEXT"})])
table = pa.table({"TENANT_CODE": ["north"]}, schema=schema)
with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
content = sink.getvalue().to_pybytes()

decoded = []
def decode():
    PREPARE
    context = ArrowConverterContext({"TIMEZONE": "UTC"})
    decoded.extend(PyArrowTableIterator(None, content, context, False, False, False, True))

threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print([one.num_rows for one in decoded])
"""


def decoded(prepare: str, steps: int, watch: str) -> subprocess.CompletedProcess[str]:
    script = FIRST_TABLES.replace("PREPARE", prepare).replace("STEPS", str(steps)).replace("WATCH", watch)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def test_once_it_is_prepared_all_of_them_go_on() -> None:
    assert decoded("prepare_driver()", 10, "pass").stdout == "[1, 1, 1, 1]\n"


@pytest.mark.slow
def test_the_driver_alone_stands_still() -> None:
    """When this fails, the driver is mended, and `prepare_driver` can go."""
    ended = decoded("pass", 1200, "faulthandler.dump_traceback_later(5, exit=True)")
    assert ended.returncode != 0 and "Timeout (0:00:05)!" in ended.stderr
