"""Limits of the machine: a disk that is full or read-only, and too many open files.

They are no defect in the code, so their errors say where it happened and what to do. Such an error may be the cause
of a library's own.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runway_pipelines.errors import Permanent

_FREE = "free space there, or name another folder (TMPDIR for temporary files, --state for the embedded stack's)"
_FILES = "raise the limit on open files (ulimit -n; ulimits of a container), or run fewer things at once"
_TROUBLE = {
    errno.ENOSPC: ("a full disk", f"{_FREE}; on ECS, give the task more ephemeral storage"),
    errno.EDQUOT: ("a used-up quota", _FREE),
    errno.EROFS: ("a read-only file system", "mount it writable, or name another folder (TMPDIR, --state, --to)"),
    errno.EMFILE: ("too many open files in this process", _FILES),
    errno.ENFILE: ("too many open files on this machine", _FILES),
}
# What else keeps a command from the folder or file that it was given.
_REFUSED = {
    errno.EACCES: ("no permission", "have it granted, or name another one"),
    errno.EPERM: ("no permission", "have it granted, or name another one"),
    errno.ENOENT: ("no such folder or file", "make the folder first, or name another one"),
    errno.ENOTDIR: ("a file where a folder is expected", "name another one"),
    errno.EISDIR: ("a folder where a file is expected", "name a file in it"),
    errno.EEXIST: ("a file where a folder is expected", "name another one"),
}
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
_MOST_CAUSES = 10


def machine_trouble(error: BaseException, folder: Path) -> Permanent | None:
    """The limit that an error, or one that caused it, met; None for any other. ``folder`` is the default place."""
    met: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if isinstance(met, OSError):
            if met.errno in _TROUBLE:
                return _permanent(met, _TROUBLE[met.errno], folder)
            if _NO_TEMPORARY_FOLDER in str(met.strerror):
                return Permanent(
                    expected="a temporary folder that can be written",
                    came="none: each is full, read-only or missing",
                    remedy="free space, or set TMPDIR to a folder that can be written",
                )
        met = None if met is None else met.__cause__ or met.__context__
    return None


def refused_file(error: OSError) -> Permanent | None:
    """`machine_trouble`, and what else is wrong with a file or folder that somebody named."""
    if error.filename is None or error.errno not in _REFUSED:
        return machine_trouble(error, temporary_folder())
    what, remedy = _REFUSED[error.errno]
    return Permanent(expected=f"to use {error.filename}", came=what, remedy=remedy)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Map what the machine refuses within the block; the place is the temporary folder, if the error names none."""
    try:
        yield
    except OSError as error:
        trouble = machine_trouble(error, temporary_folder())
        if trouble is None:
            raise
        raise trouble from None


@contextmanager
def private_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place at the end, whole, and that only its owner can read."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def temporary_folder() -> Path:
    """Where temporary files go, also where nothing can be written."""
    with suppress(OSError):
        return Path(tempfile.gettempdir())
    return Path("/tmp")  # noqa: S108 - only named


def _permanent(error: OSError, trouble: tuple[str, str], folder: Path) -> Permanent:
    what, remedy = trouble
    code = errno.errorcode[error.errno or 0]
    named = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else None
    place = folder if named is None else Path(named).parent
    return Permanent(expected=f"to write in {place}", came=f"{what} ({code}) at {place}", remedy=remedy, code=code)
