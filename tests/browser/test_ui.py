"""What a person sees: the Dagster UI on the embedded stack, in a real browser.

Needs Debian's package chromium. Screenshots are left in ``.runway-browser/screenshots``.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

STATE = Path(".runway-browser")
REPORT = Path(".runway-browser.json")
SCREENSHOTS = STATE / "screenshots"
SECONDS = 1000


@pytest.fixture(scope="module")
def ui() -> Iterator[str]:
    """The address of the UI, after the main job ran once on a fresh stack."""
    shutil.rmtree(STATE, ignore_errors=True)
    command = [sys.executable, "-m", "runway_pipelines.cli", "--state", str(STATE)]
    with REPORT.open("wb") as report:
        subprocess.run([*command, "demo", "--json"], check=True, stdout=report)
    assert json.loads(REPORT.read_text())["is_success"]
    process = subprocess.Popen([*command, "dev", "--port", "3100"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "Dagster UI" in line)
        address = re.search(r"http://[0-9.:]+", line)
        assert address is not None
        yield address.group()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


@pytest.fixture(scope="module")
def page(ui: str) -> Iterator[Page]:
    """A page in headless Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("make test-browser needs Debian's package chromium: apt-get install chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    quiet.append("--disable-dev-shm-usage")  # a container's shared memory is small
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page(base_url=ui, viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60 * SECONDS)
        expect.set_options(timeout=60 * SECONDS)  # a busy machine's page is slow, and not broken
        yield page
        browser.close()


def test_every_district_is_a_partition_and_the_one_without_students_failed(page: Page) -> None:
    page.goto("/assets/rosters/cross_year_roster?view=partitions")
    expect(page.get_by_text("acme/ashford").first).to_be_visible()
    expect(page.get_by_text("Failed (3)")).to_be_visible()
    expect(page.get_by_text("Materialized (51)")).to_be_visible()
    page.get_by_text("acme/kestrel").first.click()
    page.get_by_text("View all historical events").click()
    page.get_by_role("row", name=re.compile("kestrel.*Observation")).first.get_by_text("acme/kestrel").click()
    expect(page.get_by_text(re.compile("nobody can approve it: the warehouse has no student")).first).to_be_visible()
    expect(page.get_by_text("next step").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "failed-district.png", full_page=True)


def test_a_districts_roster_shows_its_numbers(page: Page) -> None:
    page.goto("/assets/rosters/cross_year_roster?view=partitions&partition=acme%2Fashford")
    expect(page.get_by_text("dagster/row_count").first).to_be_visible()
    expect(page.get_by_text(str(lines_of("acme", "ashford"))).first).to_be_visible()
    expect(page.get_by_text("id type coverage").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "roster.png")


def test_the_checks_say_which_of_them_keep_a_roster_from_being_published(page: Page) -> None:
    page.goto("/assets/rosters/cross_year_roster?view=checks&checkDetail=not_empty")
    expect(page.get_by_text("This is a")).to_contain_text("blocking")
    page.screenshot(path=SCREENSHOTS / "checks.png")


def test_a_partners_connection_shows_who_connects_with_which_key(page: Page) -> None:
    page.goto("/assets/credentials/edu_connection?view=partitions&partition=cascade")
    expect(page.get_by_text("key fingerprint").first).to_be_visible()
    expect(page.get_by_text("previous key fingerprint").first).to_be_visible()  # the demo rotated it
    page.screenshot(path=SCREENSHOTS / "connection.png")


def test_a_partners_page_says_which_districts_are_not_fresh_and_shows_its_students(page: Page) -> None:
    page.goto("/assets/rosters/partner_roster_index?view=partitions&partition=borealis")
    expect(page.get_by_text("students by district").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "partner.png")
    page.get_by_text("Show Markdown").first.click()
    plot = page.locator("img[alt^='students by district']")
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.naturalWidth") > 100, "the browser draws it"
    page.screenshot(path=SCREENSHOTS / "plot.png")
    page.goto("/assets/rosters/partner_roster_index?view=checks&checkDetail=tenants_fresh")
    expect(page.get_by_text("tenants_fresh").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "freshness.png")


def test_a_partner_without_a_secret_is_red_with_the_reason(page: Page) -> None:
    page.goto("/assets/credentials/edu_connection?view=events")
    page.get_by_text("driftwood", exact=True).first.click()
    expect(page.get_by_text(re.compile("No roster of the partner is refreshed until it has one")).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "no-secret.png")
    page.goto("/assets/rosters/partner_roster_index?view=events")
    page.get_by_text("driftwood", exact=True).first.click()
    expect(page.get_by_text(re.compile("No roster of the partner is refreshed until it has one")).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "no-secret-index.png")


def test_the_lineage_shows_whose_data_it_is_and_who_reads_it(page: Page) -> None:
    page.goto("/assets/rosters/published_roster?view=lineage&lineageScope=neighbors")
    expect(page.get_by_text("executor").first).to_be_visible()
    page.goto("/asset-groups")
    page.wait_for_timeout(3000)
    page.screenshot(path=SCREENSHOTS / "lineage.png")
    page.goto("/assets/students/resolutions?view=lineage&lineageScope=neighbors")
    expect(page.get_by_text("match_candidates").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "students-lineage.png")


def test_the_runs_say_which_partner_each_is_of(page: Page) -> None:
    page.goto("/runs")
    expect(page.get_by_text("partner_rosters_job").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "runs.png")


def test_the_board_is_an_asset_with_its_numbers_and_partners(page: Page) -> None:
    page.goto("/assets/rosters/board?view=events")
    expect(page.get_by_text("not fresh").first).to_be_visible()
    for text in ("kestrel", "driftwood", "has no student of this tenant", "districts got a first one"):
        expect(page.get_by_text(re.compile(text)).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "board-asset.png", full_page=True)


def test_the_sensors_tick_by_themselves(page: Page) -> None:
    page.goto("/automation")
    for name in ("edu_credentials_rotated_sensor", "partner_tenants_sync_sensor", "run_outcome_event_sensor"):
        expect(page.get_by_text(name).first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "automation.png")
    page.goto("/locations/runway_pipelines/sensors/edu_credentials_rotated_sensor")
    expect(page.get_by_text(re.compile(r"\d+ runs? requested")).first).to_be_visible()  # the first sight of partners
    page.screenshot(path=SCREENSHOTS / "rotation-sensor.png")


def test_the_identity_is_a_graph_of_ops(page: Page) -> None:
    page.goto("/locations/runway_pipelines/jobs/library_identity_job")
    page.screenshot(path=SCREENSHOTS / "identity-job.png")
    page.goto("/assets/identity/library_identity")
    expect(page.get_by_text("rows_resolved").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "identity.png")


def test_one_partners_districts_are_filtered_selected_and_materialized(page: Page) -> None:
    page.goto("/assets/rosters/cross_year_roster")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_placeholder("Filter partitions").fill("cascade/")
    page.get_by_text("Select all (4)").click()
    page.screenshot(path=SCREENSHOTS / "selection.png")
    page.keyboard.press("Escape")
    with page.expect_response(lambda answer: "aunchPartitionBackfill" in (answer.request.post_data or "")):
        page.get_by_role("button", name="Launch backfill").click()
    assert finished_backfill(page) == "COMPLETED_SUCCESS"
    page.goto("/assets/rosters/published_roster?view=events")  # observed: nothing was published
    expect(page.get_by_text("no enabled school year").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "publication.png")


def test_a_held_district_says_why_and_a_decision_in_the_launchpad_ends_it(page: Page) -> None:
    breaking = [sys.executable, "-m", "runway_pipelines.cli", "--local", "--state", str(STATE), "break", "mass-loss"]
    subprocess.run([*breaking, "acme/brookdale"], check=True)
    assert launched(page, "partner_rosters_job", "acme", {}) == "FAILURE"
    page.goto("/assets/rosters/cross_year_roster?view=partitions&partition=acme%2Fbrookdale")
    expect(page.get_by_text(re.compile("students_lost: .* published students")).first).to_be_visible()
    steps = page.get_by_text(re.compile("rosters approve acme/brookdale [0-9a-f]+")).first
    expect(steps).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "held-district.png")
    named = re.search("rosters approve acme/brookdale ([0-9a-f]+)", steps.inner_text())
    page.goto("/assets/rosters/partner_roster_index?view=partitions&partition=acme")
    expect(page.get_by_text("tenants that need a look").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "held-index.png", full_page=True)

    page.goto("/locations/runway_pipelines/jobs/roster_decision_job/playground")
    expect(page.get_by_text("decided_by").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "decision-launchpad.png")
    assert named is not None
    config = {"decision": "APPROVE", "decided_by": "a test", "reason": "most schools have closed", "sha256": "0" * 8}
    assert launched(page, "roster_decision_job", "acme/brookdale", config) == "FAILURE", "another candidate is held"
    assert launched(page, "roster_decision_job", "acme/brookdale", config | {"sha256": named[1]}) == "SUCCESS"
    page.goto("/assets/rosters/published_roster?view=partitions&partition=acme%2Fbrookdale")
    expect(page.get_by_text("most schools have closed").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "decided.png")


def launched(page: Page, job: str, partition: str, config: dict[str, str]) -> str:
    """How a run of the job ended, launched as the launchpad does."""
    launch = """mutation($params: ExecutionParams!) {launchRun(executionParams: $params) {
        ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
    params = {
        "selector": {
            "repositoryLocationName": "runway_pipelines",
            "repositoryName": "__repository__",
            "jobName": job,
        },
        "runConfigData": {"ops": {"decide_on_roster": {"config": config}}} if config else {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
    }
    answer = page.request.post("/graphql", data={"query": launch, "variables": {"params": params}}).json()
    run_id = answer["data"]["launchRun"]["run"]["runId"]
    query = f'{{runOrError(runId: "{run_id}") {{... on Run {{status}}}}}}'
    for _ in range(120):
        status = str(page.request.post("/graphql", data={"query": query}).json()["data"]["runOrError"]["status"])
        if status in ("SUCCESS", "FAILURE", "CANCELED"):
            return status
        time.sleep(2)
    return "still running"


def lines_of(partner: str, tenant: str) -> int:
    """The lines of a district's roster, as the demo reported them."""
    tenants = [one for each in json.loads(REPORT.read_text())["partners"] for one in each["tenants"]]
    (found,) = [one for one in tenants if (one["partner_id"], one["tenant_code"]) == (partner, tenant)]
    return int(found["lines"])


def finished_backfill(page: Page) -> str:
    """How the newest backfill ended, asked of the UI's own API."""
    query = "{partitionBackfillsOrError(limit: 1) {... on PartitionBackfills {results {status}}}}"
    for _ in range(90):
        answer = page.request.post("/graphql", data={"query": query}).json()
        (newest,) = answer["data"]["partitionBackfillsOrError"]["results"]
        if newest["status"] != "REQUESTED":
            return str(newest["status"])
        time.sleep(2)
    return "still running"
