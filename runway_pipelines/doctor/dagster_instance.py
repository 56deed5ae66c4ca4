"""Dagster's own storage, and whether its daemons are alive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runway_pipelines.doctor.findings import Finding, Seen, Status, in_turn, skipped
from runway_pipelines.errors import Permanent

if TYPE_CHECKING:
    import dagster as dg

DAGSTER_CHECKS = ("storage", "daemons")


def examine_dagster(home: str | None) -> Iterator[Finding]:
    """Dagster's own storage, and whether its daemons are alive."""
    if not home:
        yield from (skipped("Dagster", check, "DAGSTER_HOME is not set") for check in DAGSTER_CHECKS)
        return

    def steps() -> Generator[Seen, None, None]:
        yield _see_in_dagster(_see_storage)
        yield _see_in_dagster(_see_daemons)

    yield from in_turn("Dagster", DAGSTER_CHECKS, steps())


def _see_in_dagster(look: Callable[[dg.DagsterInstance], Seen]) -> Seen:
    """Look at the instance; of a failure only its type is told, for its text may quote a DSN."""
    import dagster as dg

    try:
        with _silence(), dg.DagsterInstance.get() as instance:
            return look(instance)
    except Exception as error:  # noqa: BLE001 - the storage is whatever dagster.yaml says, and so are its errors
        raise Permanent(
            expected="Dagster's storage to answer",
            came=type(error).__name__,
            remedy="compare DAGSTER_HOME's dagster.yaml, and the DAGSTER_PG_* that it reads, with the server",
        ) from None


def _see_storage(instance: dg.DagsterInstance) -> Seen:
    instance.get_run_ids(limit=1)
    return Seen(Status.OK, type(instance.run_storage).__name__)


def _see_daemons(instance: dg.DagsterInstance) -> Seen:
    return seen_daemons({name: bool(status.healthy) for name, status in instance.get_daemon_statuses().items()})


def seen_daemons(is_alive: Mapping[str, bool]) -> Seen:
    """What the heartbeats of the daemons that the instance needs say."""
    silent = sorted(name for name, alive in is_alive.items() if not alive)
    if silent:
        return Seen(
            Status.WARNING,
            f"no heartbeat of {', '.join(silent)}: schedules and sensors do not tick, queued runs do not start",
            "start dagster-daemon run with this DAGSTER_HOME",
        )
    return Seen(Status.OK, f"{len(is_alive)} of {len(is_alive)} alive")


@contextmanager
def _silence() -> Iterator[None]:
    """No logging: dagster-postgres logs each failed attempt with the driver's text."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
