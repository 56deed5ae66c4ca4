"""A process is killed at each step of each decision. The command that `rosters audit` then names finishes it.

tests/unit/rosters/test_publication_kills.py has all steps of all cases, over a bucket in memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg
import pytest

from runway_pipelines.rosters.holds import read_expectations
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration import decide_process
from tests.integration.fault_proxy import fault_proxy
from tests.integration.guarded_world import STUDENTS, Guarded, guarded_tenant, said
from tests.integration.world import World
from tests.waiting import PATIENCE_SECONDS

# The keys that each decision changes, in order; a record's is only known by what it says.
STEPS = {
    "approve": ["approve-", "/2026/", "current.json", "held.json", "approve-done-"],
    "reject": ["reject-", "held.json", "reject-done-"],
    "rollback": ["rollback-", "/2026/", "current.json", "held.json", "rollback-done-"],
    "unpin": ["unpin-", "current.json", "unpin-done-"],
    "expect": ["expect-", "expectations.json", "expect-done-"],
    "expect-end": ["expect-end-", "expectations.json", "expect-end-done-"],
}


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants of a few students are guarded as large ones are."""
    monkeypatch.setenv("RUNWAY_GUARD_STUDENTS_LOST_LEAST", "5")


@pytest.fixture
def guarded(world: World, instance: dg.DagsterInstance) -> Iterator[Guarded]:
    load_settings.cache_clear()
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield guarded_tenant(world, services, instance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "step"),
    [(what, step) for what, steps in STEPS.items() for step in range(len(steps))],
    ids=lambda value: str(value),
)
def test_a_decision_that_was_killed_is_finished_by_the_command_that_the_record_names(
    guarded: Guarded, what: str, step: int
) -> None:
    named = prepare(guarded, what)
    before = state(guarded)
    kill(guarded, what, named, STEPS[what][step])
    between = state(guarded)
    commands = guarded.commands_that_finish()
    if step == 0:  # nothing was put on record, and nothing was done
        assert (commands, between) == ([], before)
        decide_process.main(guarded.partner.tenant("north"), what, named)
    else:
        (command,) = commands
        said(command)
    assert guarded.commands_that_finish() == []
    after = state(guarded)
    assert after != before
    # Between the copies and the pointer only the copies are new; what is published is whole at any time.
    for member in before:
        assert between[member] in (before[member], after[member]), member
    assert guarded.audited()[-1] == f"{what}-done"


def prepare(guarded: Guarded, what: str) -> str:
    """Bring the tenant to where this can be decided; returns what the decision names."""
    if what in ("approve", "reject"):
        guarded.has((0, 30))
        assert not guarded.run().success
        return guarded.held().sha256
    if what in ("rollback", "unpin"):
        guarded.has((0, STUDENTS + 2))
        assert guarded.run().success
    if what == "unpin":
        decide_process.main(guarded.partner.tenant("north"), "rollback")
    if what == "expect-end":
        decide_process.main(guarded.partner.tenant("north"), "expect")
        (expected,) = expectations(guarded.services, guarded.partner.partner_id)
        return expected
    return ""


def state(guarded: Guarded) -> dict[str, object]:
    """What counts of the tenant."""
    pointer, hold = guarded.partner.pointer("north"), guarded.hold
    return {
        "published": guarded.partner.published("north"),
        "pointer": pointer and (pointer.sha256, pointer.previous_sha256, pointer.pinned is not None),
        "hold": hold and (hold.sha256, hold.rejected is not None),
        "expected": len(expectations(guarded.services, guarded.partner.partner_id)),
    }


def expectations(services: RosterServices, partner_id: str) -> list[str]:
    return [each.id for each in read_expectations(services.store, partner_id)[0].expectations]


def kill(guarded: Guarded, what: str, named: str, key: str) -> None:
    """Make the decision in a process that gets SIGKILL when its change of this key arrives, before that is done."""
    partner = guarded.partner
    with fault_proxy(partner.world.stack.aws_endpoint_url) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.decide_process", str(partner.tenant("north")), what, named],
            env=os.environ | {"AWS_ENDPOINT_URL": proxy.url},
        )

        def cut(method: str, path: str) -> str | None:
            if method in ("PUT", "DELETE") and key in path:
                process.send_signal(signal.SIGKILL)
                return "cut"
            return None

        proxy.fault = cut
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
