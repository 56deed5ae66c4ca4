"""A DuckDB that lives in memory alone: pure (student resolution contract, section 4).

Nothing spills: names and birth dates never reach a disk. It reads no file, opens no connection and loads no extension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from runway_pipelines.errors import Permanent


class TooLargeToResolve(Permanent):
    """The persons and a part of the file do not fit into the memory that a resolution may use."""


class StatementRefused(Permanent):
    """DuckDB refused a statement or a value."""


_ALONE = """
set temp_directory = '';
set autoinstall_known_extensions = false;
set autoload_known_extensions = false;
set python_enable_replacements = false;
set preserve_insertion_order = false;
set enable_external_access = false;
set lock_configuration = true;
"""


@dataclass(frozen=True)
class Means:
    """What a resolution may use: megabytes for DuckDB, and threads."""

    memory_mb: int = 2048
    threads: int = 2


USUAL_MEANS = Means()


@contextmanager
def memory_database(means: Means) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that ends with the block. Raises `TooLargeToResolve` and `StatementRefused`.

    DuckDB's own texts quote values, so none gets out: what it says is left behind with its exception.
    """
    connection = duckdb.connect(":memory:", config={"threads": means.threads, "memory_limit": f"{means.memory_mb}MB"})
    connection.execute(_ALONE)
    try:
        yield connection
    except duckdb.OutOfMemoryException:
        raise TooLargeToResolve(
            expected=f"students and candidates that fit into {means.memory_mb:,} MB",
            came="more",
            remedy="give the resolution more memory, or resolve the file in parts",
        ) from None
    except duckdb.Error as error:
        raise StatementRefused(
            expected="rows of the types that the contract names",
            came=f"what DuckDB calls {type(error).__name__}",
            remedy="compare the warehouse's columns with the contract; with those, this is a fault of the pipeline",
        ) from None
    finally:
        connection.close()
