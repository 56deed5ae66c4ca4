"""``make clean``: removes the embedded stack's state and the virtual environment, unless something still uses them.

    clean.py STATE_FOLDER VIRTUAL_ENVIRONMENT

Uses the standard library alone, and runs outside of the virtual environment that it removes.
"""

import fcntl
import os
import shutil
import sys
from pathlib import Path

LOCKS = ("stack.lock", "dagster.lock", "joined.lock")
# Where `postgres_place` keeps root's copy of Postgres and its data.
ROOTS_FOLDERS = ("/var/lib/runway-pipelines", "/var/tmp/runway-pipelines")  # noqa: S108 - checked by `postgres_place`


def holder_of(lock: Path) -> str | None:
    """The process that holds the lock, or None."""
    try:
        file = lock.open("r+")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.readline().strip() or "unknown"
    return None


def data_place(data: Path) -> Path | None:
    """The folder below one of `ROOTS_FOLDERS` that holds what ``data`` links to; None for any other link or file."""
    if not data.is_symlink():
        return None
    place, name = os.path.split(data.readlink())
    folder, own = os.path.split(place)
    return Path(place) if name == "postgres" and own.startswith("data-") and folder in ROOTS_FOLDERS else None


def remove_state(state: Path) -> None:
    """Delete the state folder, and root's data of Postgres that it links to; the copy goes with the last data."""
    if place := data_place(state / "postgres"):
        shutil.rmtree(place, ignore_errors=True)
        _remove_unused_copies(place.parent)
    shutil.rmtree(state, ignore_errors=True)


def _remove_unused_copies(folder: Path) -> None:
    """Delete the copies of Postgres when no data are left. The lock stays: a start may be waiting for it."""
    try:
        lock = (folder / "lock").open("r+")
    except OSError:
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(folder.glob("data-*")):
            for copy in folder.glob("*-*"):
                shutil.rmtree(copy, ignore_errors=True)


def main(state: Path, environment: Path) -> None:
    """Refuse while a process holds one of the locks; else delete both folders."""
    for lock in LOCKS:
        if pid := holder_of(state / lock):
            sys.exit(f"Nothing was removed: process {pid} uses {state}. Stop it (make dev: Ctrl-C), then try again.")
    remove_state(state)
    shutil.rmtree(environment, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
