"""Limits of the machine are named with their folder and a remedy, wherever in an error they are."""

import errno
import os
import resource
from pathlib import Path

import pytest

from runway_pipelines.errors import Permanent
from runway_pipelines.systems.disk import disk_errors, machine_trouble, private_file


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE])
def test_a_limit_names_itself_its_folder_and_what_to_do(number: int) -> None:
    found = machine_trouble(OSError(number, "text"), Path("/state"))
    assert found is not None
    assert errno.errorcode[number] in found.came and "/state" in f"{found}" and found.remedy


def test_the_errors_own_file_is_the_better_place(tmp_path: Path) -> None:
    found = machine_trouble(OSError(errno.ENOSPC, "text", str(tmp_path / "a" / "b.csv")), Path("/elsewhere"))
    assert found is not None and str(tmp_path / "a") in found.came and "elsewhere" not in found.came


def test_it_is_found_below_a_librarys_error() -> None:
    outer, inner = ValueError("a library's"), OSError(errno.EMFILE, "text")
    outer.__cause__ = inner
    assert machine_trouble(outer, Path("/state")) is not None


def test_a_temporary_folder_that_nothing_can_be_written_to_is_one() -> None:
    text = "No usable temporary directory found in ['/tmp', '/var/tmp']"
    found = machine_trouble(FileNotFoundError(errno.ENOENT, text), Path("/state"))
    assert found is not None and "TMPDIR" in found.remedy


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), ConnectionResetError(104, "x"), ValueError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert machine_trouble(error, Path("/state")) is None
    with pytest.raises(type(error)), disk_errors():
        raise error


def test_a_block_maps_what_the_machine_refuses() -> None:
    with pytest.raises(Permanent, match="EMFILE") as raised, disk_errors():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert raised.value.__suppress_context__


def test_a_file_that_finds_no_room_at_its_very_end_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "roster.csv"
    target.write_bytes(b"whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large"), private_file(target) as file:  # noqa: PT012 - the end raises
            file.write(b"more")  # as far as the buffer
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_bytes() == b"whole" and [target] == list(tmp_path.iterdir())
