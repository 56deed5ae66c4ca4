"""A disk that is full or read-only reads as that, with its folder and what to do: on a small file system of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from runway_pipelines.local.processes import LocalServerError
from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.world import Warehouse, World, run_partner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting takes root, and Linux"),
]
Mount = Callable[[str], Path]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a file system in memory with these options; skips where even root may not."""
    # Where the user that Postgres runs as can pass through, unlike in pytest's folders.
    outside = Path(tempfile.mkdtemp(prefix="runway-disk-"))
    outside.chmod(0o755)
    mounted: list[Path] = []

    def one(options: str) -> Path:
        folder = outside / f"disk-{len(mounted)}"
        folder.mkdir(mode=0o755)
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if result.returncode:
            pytest.skip("this machine mounts nothing")
        mounted.append(folder)
        return folder

    yield one
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    shutil.rmtree(outside)


def command(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runway_pipelines.cli", "--state", str(state), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
        stdin=subprocess.DEVNULL,
    )


def test_a_tenant_that_does_not_fit_on_the_disk_says_so_and_the_others_are_published(
    world: World, instance: dg.DagsterInstance, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse()
    warehouse.students("large", 4000)
    warehouse.students("small", 3)
    partner = world.partner(warehouse, ["large", "small"])
    # One after the other: at the same time, the large one would take the small one's room.
    monkeypatch.setenv("RUNWAY_SESSIONS_PER_PARTNER", "1")
    disk = mount("size=256k")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    result = run_partner(instance, partner)
    assert not result.success
    assert partner.published("large") is None and partner.published("small") is not None
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    text = str(failure.step_failure_data.user_failure_data.description)  # type: ignore[union-attr]
    assert f"got a full disk (ENOSPC) at {disk}" in text and "TMPDIR" in text
    assert "unexpected" not in text


@pytest.mark.parametrize("arguments", [("demo",), ("--local", "rosters", "show", "acme/ashford")])
def test_a_read_only_state_folder_is_one_line(mount: Mount, arguments: tuple[str, ...]) -> None:
    state = mount("size=1m,ro") / "state"
    done = command(state, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert "a read-only file system (EROFS)" in line and str(state.parent) in line and "--state" in line


def test_the_stack_on_a_full_disk_says_so(mount: Mount) -> None:
    state = mount("size=64k,mode=755") / "state"
    # Full already: as root, Postgres' data are elsewhere, and the other servers need little.
    with contextlib.suppress(OSError), (state.parent / "everything").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(LocalServerError, match="a full disk") as raised, EmbeddedStack(state):
        pass
    first, *_ = str(raised.value).splitlines()
    assert str(state) in first and "free" in first
