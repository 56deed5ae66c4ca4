"""dagster-snowflake's resource, imported late, and without the libraries of methods that nobody here calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster_snowflake import SnowflakeResource

_REST_CLIENT = "snowflake.core"
_UNUSED = (
    "snowflake.snowpark",
    _REST_CLIENT,
    *(f"{_REST_CLIENT}.{name}" for name in ("database", "pipe", "schema", "stage", "table", "view")),
)


@cache
def snowflake_resource() -> type[SnowflakeResource]:
    """The class, imported when a process first needs it; most commands and the code server never do.

    Snowpark and Snowflake's REST client, which list and create objects, are two thirds of what the import costs: 4 of 6
    CPU-seconds and 67 of 188 MB, in each run's process and in the roster stream.
    """
    with _without_unused():
        from dagster_snowflake import SnowflakeResource
    return SnowflakeResource


@contextmanager
def _without_unused() -> Iterator[None]:
    """Stand-ins in place of the modules, for one import; whoever imports them later gets the real ones."""
    standing_in = {name: _StandIn(name) for name in _UNUSED if name not in sys.modules}
    sys.modules.update(standing_in)
    try:
        yield
    finally:
        for name in standing_in:
            del sys.modules[name]


class _StandIn(ModuleType):
    """Has a class of every name, for annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
