"""A Postgres server from a Python package: TCP with SCRAM passwords on loopback.

This module starts and stops it and creates databases. `postgres_place` says where its files are; what the databases
hold is `seed`'s and `catalogue`'s business.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from runway_pipelines.local.postgres_place import PostgresPlace, find_place
from runway_pipelines.local.processes import (
    Child,
    ChildEnded,
    LocalServerError,
    free_port,
    start_child,
    stop_stale,
    terminate,
)

USER = "runway"
_HOST = "127.0.0.1"
_PORT_ATTEMPTS = 3
_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",  # a socket's path may be at most 107 bytes, a state folder's may be longer
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    # A development database: losing the last transactions in a power cut is fine, waiting for the disk on each is not.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # Statements and the DETAIL of an error hold values, and values may be student identifiers.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class PostgresServer:
    """A running Postgres. The user owns everything in it (superuser)."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    child: Child = field(repr=False)

    def dsn(self, dbname: str = "postgres") -> str:
        """A libpq connection string, password included: for tests, never for a log."""
        return f"host={self.host} port={self.port} user={self.user} password={self.password} dbname={dbname}"

    def create_database(self, name: str) -> None:
        """Create a database if it does not exist."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            exists = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
            if not exists:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def stop(self) -> None:
        """A fast shutdown: open connections are closed, data are flushed. Does nothing when it has ended."""
        self.child.stop()


def start_postgres(state_dir: Path, settings: Mapping[str, str] | None = None) -> PostgresServer:
    """Start the server of a state folder (its data are made at first use) and wait for it.

    ``settings`` override a development database's. Call this from a thread that lives as long as the server should,
    holding the state folder's lock. Raises LocalServerError with the end of the server's log.
    """
    place = find_place(state_dir)
    stop_stale("postgres", state_dir)
    _stop_orphans(place.data)
    password = _password(state_dir, place.data)
    if not place.data.exists():
        _initialize(place, state_dir, password)
    # We hold the lock and stopped what was left, so a killed run's file can only mislead: its pid may be another's.
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    return _start_on_a_free_port(place, state_dir, password, {**_SETTINGS, **(settings or {})})


def _start_on_a_free_port(
    place: PostgresPlace, state_dir: Path, password: str, settings: Mapping[str, str]
) -> PostgresServer:
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = free_port()
        options = [part for key, value in {**settings, "port": str(port)}.items() for part in ("-c", f"{key}={value}")]
        # SIGINT is Postgres' fast shutdown; SIGTERM would wait for every client to leave.
        command: list[str | Path] = [place.program / "bin" / "postgres", "-D", place.data, *options]
        child = start_child("postgres", command, state_dir, run_as=place.run_as, stop_signal=signal.SIGINT)
        server = PostgresServer(_HOST, port, USER, password, child)
        try:
            child.wait_until(lambda: _accepts_login(server), timeout=60)  # noqa: B023 - called within this iteration
            return server
        except ChildEnded as error:
            child.stop()
            if "Address already in use" not in str(error) or attempt == _PORT_ATTEMPTS:
                raise
        except BaseException:
            child.stop()
            raise
    raise AssertionError("unreachable")


def _accepts_login(server: PostgresServer) -> bool:
    try:
        psycopg.connect(server.dsn(), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise LocalServerError(
                "Postgres refuses the password in postgres.password: it is not the one its data folder was made with. "
                "Delete the state folder's `postgres` folder to start anew."
            ) from None
        return False
    return True


def _password(state_dir: Path, data: Path) -> str:
    path = state_dir / "postgres.password"
    if not path.exists():
        if data.exists():
            raise LocalServerError(f"{path} is gone, but {data} was made with it. Delete {data} to start anew.")
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(24))
        new.replace(path)
    return path.read_text()


def _initialize(place: PostgresPlace, state_dir: Path, password: str) -> None:
    """Run initdb beside the final place, then rename: a killed run leaves no half-made data folder."""
    new, run_as = place.data.with_name("postgres.new"), place.run_as
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=new.parent, prefix=".pw-") as password_file:
        password_file.write(password)
        password_file.flush()
        if run_as:
            os.chown(new, run_as.uid, run_as.gid)
            os.fchown(password_file.fileno(), run_as.uid, run_as.gid)
        login = ["-U", USER, "--auth=scram-sha-256", "--pwfile", password_file.name]
        options = ["-E", "UTF8", "--locale=C", "--no-sync", *login]
        child = start_child("initdb", [place.program / "bin" / "initdb", "-D", new, *options], state_dir, run_as=run_as)
        try:
            code = child.wait(timeout=120)
            if code:
                raise LocalServerError(f"initdb failed.\n{child.log_tail()}")
        finally:
            child.stop()
    new.replace(place.data)


def _stop_orphans(data: Path) -> None:
    """Stop a killed server's processes that still run in our data folder, which is their working folder."""
    if not (data / "postmaster.pid").exists():
        return
    for process in psutil.process_iter(["name"]):
        try:
            is_ours = process.info["name"] == "postgres" and Path(process.cwd()) == data
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if is_ours:
            terminate(process, grace=5)
