"""What the selection sends to the catalogue: its statements, told before they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg

from runway_pipelines.identity.transactions import Connections
from tests.integration.identity_world import TestCatalogue

Tell = Callable[[str, Any, psycopg.Connection[Any]], None]


def telling(catalogue: TestCatalogue, tell: Tell) -> Connections:
    """The catalogue's connections, which tell each composed statement and its parameters right before it is sent."""

    @contextmanager
    def told() -> Iterator[Any]:
        with catalogue.database.connection() as connection:
            yield _Told(connection, tell)

    def connections() -> AbstractContextManager[Any]:
        return told()

    return connections


class _Told:
    def __init__(self, connection: psycopg.Connection[Any], tell: Tell) -> None:
        self._connection = connection
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: Any, parameters: Any = None, **options: Any) -> Any:
        if not isinstance(query, str):
            self._tell(query.as_string(self._connection), parameters, self._connection)
        return self._connection.execute(query, parameters, **options)
