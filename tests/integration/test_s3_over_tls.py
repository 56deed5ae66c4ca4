"""S3 over TLS that breaks in the middle of a body: an error of ours, and one partner's trouble stays one's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.rosters.manifest import index_key, pointer_key
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.fault_proxy import FaultProxy, fault_proxy
from tests.integration.world import TestPartner, Warehouse, World, definitions, run_partner
from tests.servers.certificates import new_authority


@pytest.fixture
def partners(world: World, instance: dg.DagsterInstance) -> list[TestPartner]:
    """Three with a published roster, in the order in which they are judged."""
    warehouse = Warehouse()
    warehouse.students("north", 3)
    made = [world.partner(warehouse, ["north"]) for _ in range(3)]
    assert all(run_partner(instance, partner).success for partner in made)
    return sorted(made, key=lambda partner: partner.partner_id)


@pytest.fixture
def front(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """S3 over TLS, for what is opened from now on."""
    authority = new_authority(tmp_path)
    with fault_proxy(world.stack.aws_endpoint_url, authority.issue("localhost")) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", one.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
        load_settings.cache_clear()
        yield one


@pytest.mark.slow
def test_a_connection_that_breaks_in_the_middle_of_a_body_is_unavailable(
    partners: list[TestPartner], front: FaultProxy
) -> None:
    key = pointer_key(partners[0].tenant("north"))
    front.fault = lambda method, path: "garble" if key in path and method == "GET" else None
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        for read in (services.store.read, lambda key: list(services.store.lines(key))):
            with pytest.raises(Unavailable, match="read s3://") as raised:
                read(key)
            assert raised.value.__cause__ is None and raised.value.__suppress_context__


@pytest.mark.slow
def test_one_partners_index_that_cannot_be_read_does_not_end_the_judgement_of_all(
    partners: list[TestPartner], front: FaultProxy, instance: dg.DagsterInstance
) -> None:
    first, *others = partners
    front.fault = lambda method, path: "garble" if index_key(first.partner_id) in path else None
    job = definitions().resolve_job_def("roster_freshness_job")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    judged = [each for each in result.get_asset_check_evaluations() if each.asset_check_key == TENANTS_FRESH]
    assert {each.partition for each in judged} >= {partner.partner_id for partner in others}
    assert first.partner_id not in {each.partition for each in judged}
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert failure.step_failure_data.user_failure_data is not None
    assert first.partner_id in str(failure.step_failure_data.user_failure_data.description)
