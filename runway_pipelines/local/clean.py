"""``make clean``: removes the embedded stack's state and the virtual environment, unless something still uses them.

    clean.py STATE_FOLDER VIRTUAL_ENVIRONMENT

Uses the standard library alone, and runs outside of the virtual environment that it removes.
"""

import fcntl
import shutil
import sys
from pathlib import Path

LOCKS = ("stack.lock", "dagster.lock", "joined.lock")
# Where `postgres_place` keeps what the user that runs Postgres must reach.
ROOTS_FOLDERS = ("/var/lib/runway-pipelines", "/var/tmp/runway-pipelines")  # noqa: S108 - checked by `postgres_place`


def holder_of(lock: Path) -> str | None:
    """Who holds the lock, or None when nobody does."""
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


def remove_state(state: Path) -> None:
    """Delete the state folder, and Postgres' data where they are elsewhere and the state folder links there."""
    data = state / "postgres"
    if data.is_symlink() and str((place := data.readlink().parent).parent) in ROOTS_FOLDERS:
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)


def main(state: Path, environment: Path) -> None:
    """Refuse while a process holds one of the locks; else delete both folders."""
    for lock in LOCKS:
        if pid := holder_of(state / lock):
            sys.exit(f"Nothing was removed: process {pid} uses {state}. Stop it (make dev: Ctrl-C), then try again.")
    remove_state(state)
    shutil.rmtree(environment, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
