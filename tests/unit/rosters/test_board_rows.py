"""The board: worst first, each word true of its district, a next step for each, and a page without anything foreign."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import escape
from html.parser import HTMLParser

import pytest

from runway_pipelines.credentials.key_hygiene import KeyFacts
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.board import Board, PartnerState, make_board
from runway_pipelines.rosters.board_page import MOST_GROUPS, board_page
from runway_pipelines.rosters.districts import District, DistrictState, district_of, grouped
from runway_pipelines.rosters.index import DEPARTED, NEVER, RETURNED, STILL_PUBLISHED, UNUSABLE_CODE, IndexEntry
from tests.factories import SHA256

NOW = datetime(2026, 11, 28, 22, 30, tzinfo=UTC)
MOST_AGE = timedelta(hours=30)
HELD = (
    "held since 2026-11-28 02:03 UTC: students_lost: 640 of 1,000 students are gone. To see what would change: "
    "runway-pipelines rosters diff acme/north. To publish it all the same: "
    "runway-pipelines rosters approve acme/north 1a2b3c4d5e6f --reason '...'"
)
MOVED = (
    "held since 2026-11-28 02:03 UTC: warehouse_moved: the roster comes from b; what is published came from a. If it "
    "is another partner's warehouse: correct the secret of acme, approve nothing. To see what would change: "
    "runway-pipelines rosters diff acme/north. To publish it all the same: runway-pipelines rosters approve acme/north "
    "1a2b3c4d5e6f --reason '...'"
)
REJECTED = (
    "the candidate 1a2b3c4d5e6f was rejected by ann: wrong load (students_lost: 640 are gone). To release it: correct "
    "the data in the warehouse, and refresh; another roster is judged anew"
)
REFUSED = "Expected students of north in the warehouse; got none. To do: correct the tenant code."
NO_SECRET = "Expected the secret dev-acme; got no secret of that name. To do: create it."
PINNED = (
    "pinned since 2026-11-20 10:00 UTC, by ann: wrong load. To publish again: runway-pipelines rosters unpin acme/north"
)


def ago(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat(timespec="seconds")


def entry(
    code: str = "north", status: str = "unchanged", age: float | None = 2, reason: str = "", **more: str
) -> IndexEntry:
    kept = {} if age is None else {"refreshed_at": ago(age), "sha256": SHA256}
    return IndexEntry(code, status, reason, students=100, lines=120, **kept, **more)  # type: ignore[arg-type]


def partner(partner_id: str, *entries: IndexEntry, keys: KeyFacts | None = None, trouble: str = "") -> PartnerState:
    return PartnerState(partner_id, partner_id.title(), entries, keys or KeyFacts(), (2026,), trouble)


def board_of(*partners: PartnerState, advice: Advice | None = None) -> Board:
    return make_board(partners, NOW, MOST_AGE, advice=advice)


def district(one: IndexEntry) -> District:
    return district_of(one, "acme", NOW, MOST_AGE)


@pytest.mark.parametrize(
    ("one", "state", "reason", "since", "next_step"),
    [
        pytest.param(entry(), "fresh", "", "after its last good refresh, 2026-11-28 20:30 UTC", "", id="fresh"),
        pytest.param(
            entry(age=52),
            "stale",
            "not confirmed for more than 30 hours: the last refresh went well, and none ran since",
            "since 2026-11-28 00:30 UTC",
            "materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="stale: no run came",
        ),
        pytest.param(
            entry(age=-3),
            "stale",
            "dated 3.0 hours in the future: the clock of its run was fast, or this one is slow",
            "",
            "runway-pipelines doctor says whose clock is wrong; the next refresh replaces it",
            id="stale: from the future",
        ),
        pytest.param(
            entry(status=RETURNED, age=90),
            "stale",
            "not confirmed for more than 30 hours: back in the registry, not refreshed since",
            "since 2026-11-26 10:30 UTC",
            "materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="stale: was away",
        ),
        pytest.param(
            entry(status="held", age=27, reason=HELD, since=ago(20)),
            "held",
            "students_lost: 640 of 1,000 students are gone",
            "since 2026-11-28 02:30 UTC",
            "To see what would change: runway-pipelines rosters diff acme/north\nTo publish it all the same: "
            "runway-pipelines rosters approve acme/north 1a2b3c4d5e6f --reason '...'",
            id="held for a person",
        ),
        pytest.param(
            entry(status="held", age=27, reason=MOVED, since=ago(20)),
            "held",
            "warehouse_moved: the roster comes from b; what is published came from a",
            "since 2026-11-28 02:30 UTC",
            "If it is another partner's warehouse: correct the secret of acme, approve nothing\n"
            "To see what would change: runway-pipelines rosters diff acme/north\nTo publish it all the same: "
            "runway-pipelines rosters approve acme/north 1a2b3c4d5e6f --reason '...'",
            id="held, perhaps with another partner's key",
        ),
        pytest.param(
            entry(status="held", age=27, reason=REJECTED, since=ago(20)),
            "held",
            "the candidate 1a2b3c4d5e6f was rejected by ann: wrong load (students_lost: 640 are gone)",
            "since 2026-11-28 02:30 UTC",
            "To release it: correct the data in the warehouse, and refresh; another roster is judged anew",
            id="rejected",
        ),
        pytest.param(
            entry(status="held", age=None, reason=REFUSED),
            "held",
            "Expected students of north in the warehouse; got none",
            "never had a roster",
            "correct the tenant code",
            id="held by a check, never published",
        ),
        pytest.param(
            entry(status="failed", age=40, reason=NO_SECRET),
            "failed",
            "Expected the secret dev-acme; got no secret of that name",
            "after its last good refresh, 2026-11-27 06:30 UTC",
            "create it; then materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="failed, as an earlier version recorded it",
        ),
        pytest.param(
            entry(status="failed", age=40, reason=NO_SECRET, failing_since=ago(12)),
            "failed",
            "Expected the secret dev-acme; got no secret of that name",
            "since 2026-11-28 10:30 UTC",
            "create it; then materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="failed",
        ),
        pytest.param(
            entry(status="failed", age=None, reason=REFUSED, failing_since=ago(12)),
            "failed",
            "Expected students of north in the warehouse; got none",
            "since 2026-11-28 10:30 UTC, never had a roster",
            "correct the tenant code; then materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="failed, never published",
        ),
        pytest.param(
            entry(status="held", age=40, reason=REFUSED, failing_since=ago(36)),
            "held",
            "Expected students of north in the warehouse; got none",
            "since 2026-11-27 10:30 UTC",
            "correct the tenant code",
            id="held by a check",
        ),
        pytest.param(
            entry(status="failed", age=40, reason="an unexpected KeyError", since=ago(50)),
            "failed",
            "an unexpected KeyError; the hold or pin since 2026-11-26 20:30 UTC stands",
            "after its last good refresh, 2026-11-27 06:30 UTC",
            "runway-pipelines doctor --partner acme, mend the cause, then materialize rosters/partner_roster_index, "
            "partition acme, in the Dagster UI",
            id="failed while held",
        ),
        pytest.param(
            entry(status=NEVER, age=None),
            "never",
            "no run has reached it yet",
            "never had a roster",
            "materialize rosters/partner_roster_index, partition acme, in the Dagster UI",
            id="new",
        ),
        pytest.param(
            entry("a/b", UNUSABLE_CODE, None, "the code has the character U+002F"),
            "never",
            "the code has the character U+002F",
            "never had a roster",
            "have the tenant's code changed in the application",
            id="a code that can be no key",
        ),
        pytest.param(
            entry(status=DEPARTED, age=300, reason=STILL_PUBLISHED),
            "left",
            STILL_PUBLISHED,
            "",
            "runway-pipelines rosters purge acme/north --reason '...' deletes what is still published",
            id="left",
        ),
        pytest.param(
            entry(status="pinned", age=190, reason=PINNED, since=ago(188)),
            "stale",
            "not confirmed for more than 30 hours: pinned since 2026-11-20 10:00 UTC, by ann: wrong load",
            "since 2026-11-21 02:30 UTC",
            "runway-pipelines rosters unpin acme/north --reason '...', then refresh it",
            id="pinned and old",
        ),
    ],
)
def test_each_word_is_true_of_its_district(
    one: IndexEntry, state: str, reason: str, since: str, next_step: str
) -> None:
    made = district(one)
    assert (made.state, made.reason, made.since_in_words, made.next_step) == (state, reason, since, next_step)


def test_what_is_published_stays_is_said_of_nobody_who_never_had_a_roster() -> None:
    made = board_page(board_of(partner("acme", entry(status="failed", age=None, reason=NO_SECRET))))
    assert "never had a roster" in made
    assert "stays" not in made


def test_a_pinned_roster_that_is_fresh_counts_as_fresh_and_is_listed() -> None:
    (row,) = board_of(partner("acme", entry(status="pinned", age=2, reason=PINNED, since=ago(1)))).partners
    assert (row.fresh, row.is_fine) == (1, True)
    assert [each.next_step for each in row.to_look_at] == [
        "runway-pipelines rosters unpin acme/north --reason '...', then refresh it"
    ]


def test_the_exact_command_survives_a_shell() -> None:
    made = district_of(entry("O'Brien ISD", DEPARTED, 10, STILL_PUBLISHED), "acme", NOW, MOST_AGE)
    assert made.next_step.startswith("""runway-pipelines rosters purge 'acme/O'"'"'Brien ISD' """)


def test_the_worst_partner_comes_first_and_in_it_the_worst_district() -> None:
    made = board_of(
        partner("fine", entry()),
        partner("old", entry("a", age=50), entry("b", age=70)),
        partner("two", entry("a", "held", 2, HELD, since=ago(9)), entry("b", "failed", 2, "no"), entry("c")),
        partner("one", entry("a", "failed", 2, "no"), entry("b", NEVER, None), entry("c", age=99)),
        partner("gone", trouble="no answer"),
    )
    assert [row.partner_id for row in made.partners] == ["gone", "two", "one", "old", "fine"]
    by_id = {row.partner_id: row for row in made.partners}
    assert [each.state for each in by_id["one"].to_look_at] == ["failed", "stale", "never"]
    assert [each.tenant_code for each in by_id["old"].to_look_at] == ["b", "a"]
    assert made.totals == {"fresh": 2, "stale": 3, "held": 1, "failed": 2, "never": 1}
    assert made.oldest_hours == 99
    assert not made.is_fine
    assert made.summary == (
        "2 of 9 districts of 5 partners are fresh, 3 stale, 1 held, 2 failed, 1 never; "
        "the indexes of gone cannot be read"
    )


def test_what_left_the_registry_is_listed_and_counts_as_no_district() -> None:
    (row,) = board_of(partner("acme", entry("a"), entry("b", DEPARTED, 400, STILL_PUBLISHED))).partners
    assert (row.total, row.is_fine, row.oldest_hours) == (1, True, 2)
    assert [each.state for each in row.to_look_at] == [DistrictState.LEFT]


def test_one_reason_of_many_districts_is_said_once() -> None:
    failed = [entry(f"d-{n}", "failed", 40 + n, NO_SECRET) for n in range(12)]
    (row,) = board_of(partner("acme", *failed, entry("x", "held", 2, REFUSED))).partners
    held, others = grouped(row.to_look_at)
    assert (held.first.state, len(held.districts)) == ("held", 1)
    assert [each.tenant_code for each in others.districts][:2] == ["d-11", "d-10"], "the oldest first"
    page = board_page(board_of(partner("acme", *failed)))
    assert page.count("no secret of that name") == 1
    assert "12 districts" in page


def test_codes_with_numbers_are_in_the_order_of_the_numbers() -> None:
    (row,) = board_of(partner("acme", *(entry(f"d-{n}", NEVER, None) for n in (10, 2, 1)))).partners
    assert [each.tenant_code for each in row.districts] == ["d-1", "d-2", "d-10"]


@pytest.mark.parametrize(
    ("one", "next_step"),
    [
        (partner("acme", entry()), ""),
        (partner("acme", entry(), keys=KeyFacts(91, "never")), "rotate the key as docs/operations.md#"),
        (partner("acme", entry(), keys=KeyFacts(90, "never")), ""),
        (partner("acme", trouble="no answer"), "runway-pipelines doctor --partner acme"),
        (
            partner("acme", entry("a", "failed", None, NO_SECRET), keys=KeyFacts(trouble="there is no such secret")),
            "put its secret into Secrets Manager as docs/operations.md#the-secret-of-a-partner says",
        ),
        (
            partner("acme", entry("a", "held", 2, HELD, since=ago(1)), entry("b", "held", 2, REFUSED)),
            "runway-pipelines rosters holds acme",
        ),
        (
            partner("acme", entry("a", "failed", 2, "this"), entry("b", "failed", 2, NO_SECRET)),
            "runway-pipelines rosters status acme",
        ),
        (partner("acme", entry("a", "held", 2, REFUSED), entry("b", age=99)), "correct the tenant code"),
    ],
)
def test_a_partner_has_one_next_step(one: PartnerState, next_step: str) -> None:
    (row,) = board_of(one).partners
    assert row.next_step.startswith(next_step)
    assert bool(row.next_step) == bool(next_step)


def test_local_commands_advise_local_remedies() -> None:
    advice = Advice("runway-pipelines --local", ui="the Dagster UI (make dev)")
    made = board_of(partner("acme", entry(status="held", reason=HELD, since=ago(1)), entry("b", age=99)), advice=advice)
    steps = [each.next_step for each in made.partners[0].to_look_at]
    assert "runway-pipelines --local rosters approve acme/north 1a2b3c4d5e6f" in steps[0]
    assert "(make dev)" in steps[1]
    assert not re.search("runway-pipelines (?!--local)", json.dumps(made.document()))


def test_what_nothing_tells_is_unknown_and_not_zero() -> None:
    page = board_page(board_of(partner("acme", entry())))
    assert 'data-label="key age">unknown<' in page
    assert 'data-label="last rotation">unknown<' in page
    document = board_of(partner("acme", entry(status=NEVER, age=None))).document()
    assert document["oldest_hours"] is None
    assert document["partners"][0]["key"]["age_days"] is None


def test_the_document_is_json_that_holds_the_districts_to_look_at() -> None:
    made = board_of(partner("acme", entry("a"), entry("b", "failed", None, NO_SECRET)))
    document = json.loads(json.dumps(made.document()))
    assert (document["fresh"], document["failed"], document["districts"], document["is_fine"]) == (1, 1, 2, False)
    (listed,) = document["partners"][0]["to_look_at"]
    assert (listed["tenant_code"], listed["state"], listed["since"]) == ("b", "failed", None)


EVIL = "<script>alert('x')</script>\"&"


class Tags(HTMLParser):
    """The tags of a page, and where they lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_everything_foreign_is_escaped_wherever_it_stands() -> None:
    one = replace(
        partner("acme", entry(EVIL, "failed", 40, EVIL), keys=KeyFacts(3, EVIL, EVIL), trouble=EVIL), name=EVIL
    )
    page = board_page(board_of(one, advice=Advice("runway-pipelines", "http://127.0.0.1:3000/<b>'\"")))
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;") >= 5
    tags = Tags(page).found
    assert not {"script", "b>", "img", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_the_page_loads_nothing_and_links_to_dagster_alone() -> None:
    made = board_of(
        partner("acme", entry(age=99), entry("b", "failed", 2, "see javascript:alert(1) and http://evil.example")),
        advice=Advice(dagster_url="http://127.0.0.1:3000"),
    )
    tags = Tags(board_page(made)).found
    assert not [attributes for _, attributes in tags if "src" in attributes]
    links = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert links == {
        "#partner-acme",
        "#changes",
        "http://127.0.0.1:3000/assets/rosters/partner_roster_index?view=partitions&partition=acme",
    }
    assert "url(" not in board_page(made)


def test_a_command_can_be_copied_by_itself() -> None:
    steps = {
        "runway-pipelines rosters approve acme/north 1a2b3c4d5e6f --reason '...'": entry(
            status="held", reason=HELD, since=ago(1)
        ),
        "runway-pipelines doctor --partner acme": entry(status="failed", reason="no"),
        "runway-pipelines rosters unpin acme/north --reason '...'": entry(status="pinned", age=99, since=ago(9)),
        "runway-pipelines rosters purge acme/north --reason '...'": entry(status=DEPARTED),
    }
    for command, one in steps.items():
        assert f"<code>{escape(command)}</code>" in board_page(board_of(partner("acme", one)))


def test_a_partner_in_great_trouble_does_not_fill_the_page() -> None:
    many = [entry(f"d-{n}", "failed", 40, f"reason {n}") for n in range(MOST_GROUPS + 5)]
    page = board_page(board_of(partner("acme", *many)))
    assert page.count('class="group failed"') == MOST_GROUPS
    assert "and 5 more: runway-pipelines rosters status acme" in page


def test_a_registry_without_partners_has_a_page_too() -> None:
    made = board_of()
    assert made.is_fine
    assert "no partner" in board_page(made)


def test_known_key_facts_grow_older_with_the_time_that_passed() -> None:
    facts = KeyFacts(3, "3 days ago").later(timedelta(days=2, hours=5))
    assert facts == KeyFacts(5, "5 days ago")
    assert KeyFacts(3, "never").later(timedelta(days=1)) == KeyFacts(4, "never")
    assert KeyFacts().later(timedelta(days=9)) == KeyFacts()


def changed(code: str, age: float, *counts: int | None) -> IndexEntry:
    added, removed, other = counts or (None, None, None)
    return replace(
        entry(code),
        changed_at=ago(age),
        students_added=added,
        students_removed=removed,
        students_changed=other,
    )


def test_what_changed_last_night_is_told_the_greatest_change_first() -> None:
    made = board_of(
        partner("acme", changed("a", 20, 1, 2, 3), changed("old", 25, 9, 9, 9), entry("b")),
        partner("other", changed("c", 2, 1_000, 0, 40), changed("first", 3)),
    )
    assert [(partner_id, district.tenant_code) for partner_id, district, _ in made.changed] == [
        ("other", "c"),
        ("acme", "a"),
    ]
    assert made.changes == (
        "2 rosters changed within the last 24 hours: 1,001 students came, 2 went, 43 changed, and 1 district got a "
        "first one"
    )
    page = board_page(made)
    for text in ("other/c", "1,000 came, 0 went, 40 changed"):
        assert text in page
    assert "acme/old" not in page and "other/first" not in page
    assert (made.document()["rosters_changed"], made.document()["first_rosters"]) == (2, 1)


def test_an_older_roster_that_came_back_is_told_by_the_two_sizes() -> None:
    """Nobody compared the two: its manifest is as old as it is."""
    back = replace(changed("a", 1), students=500, students_before=25)
    made = board_of(partner("acme", back))
    assert made.changes.endswith("475 students came, 0 went, 0 changed")
    assert "an older roster came back: 25 before, 500 now" in board_page(made)


def test_a_night_without_changes_says_so() -> None:
    made = board_of(partner("acme", entry("a")))
    assert made.changes == "No roster changed within the last 24 hours"
    assert made.changes in board_page(made)


def test_a_partner_without_credentials_has_one_next_step() -> None:
    """To materialize its index would fail again."""
    page = board_page(
        board_of(partner("acme", entry("a", "failed", None, NO_SECRET), keys=KeyFacts(trouble="no such secret")))
    )
    assert "put its secret into Secrets Manager" in page
    assert "materialize" not in page
