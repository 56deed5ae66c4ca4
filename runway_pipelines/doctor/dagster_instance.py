"""Checks Dagster's own storage and its daemons' heartbeats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runway_pipelines.doctor.findings import CheckStatus, Finding, Seen, in_turn, skipped
from runway_pipelines.errors import Permanent
from runway_pipelines.operations.wording import START_DAEMON

if TYPE_CHECKING:
    import dagster as dg

DAGSTER_CHECKS = ("storage", "daemons")


def examine_dagster(home: str | None) -> Iterator[Finding]:
    """Examine Dagster's own storage, and its daemons' heartbeats."""
    if not home:
        yield from (skipped("Dagster", check, "DAGSTER_HOME is not set") for check in DAGSTER_CHECKS)
        return

    def steps() -> Generator[Seen, None, None]:
        yield _see_in_dagster(_see_storage)
        yield _see_in_dagster(_see_daemons)

    yield from in_turn("Dagster", DAGSTER_CHECKS, steps())


def _see_in_dagster(look: Callable[[dg.DagsterInstance], Seen]) -> Seen:
    """Look at the instance. A failure reports its type alone, because its text may quote a DSN."""
    import dagster as dg

    try:
        with without_logs(), dg.DagsterInstance.get() as instance:
            return look(instance)
    except Exception as error:  # noqa: BLE001 - dagster.yaml decides the storage, and so its errors
        raise Permanent(
            expected="Dagster's storage to answer",
            came=type(error).__name__,
            remedy="compare DAGSTER_HOME's dagster.yaml, and its DAGSTER_PG_* variables, with the server",
        ) from None


def _see_storage(instance: dg.DagsterInstance) -> Seen:
    instance.get_run_ids(limit=1)
    return Seen(CheckStatus.OK, type(instance.run_storage).__name__)


def _see_daemons(instance: dg.DagsterInstance) -> Seen:
    return seen_daemons({name: bool(status.healthy) for name, status in instance.get_daemon_statuses().items()})


def seen_daemons(is_alive: Mapping[str, bool]) -> Seen:
    """A warning that names the required daemons without a heartbeat."""
    silent = sorted(name for name, alive in is_alive.items() if not alive)
    if silent:
        return Seen(
            CheckStatus.WARNING,
            f"no heartbeat of {', '.join(silent)}: schedules and sensors do not tick, queued runs do not start",
            START_DAEMON,
        )
    return Seen(CheckStatus.OK, f"{len(is_alive)} of {len(is_alive)} alive")


@contextmanager
def without_logs() -> Iterator[None]:
    """Switch logging off, because dagster-postgres logs each failed attempt with the driver's text."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
