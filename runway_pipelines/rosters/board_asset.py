"""The asset ``rosters/board``, and the sensor that keeps it (docs/decisions/0013-the-board.md).

The sensor makes the board in its own tick, which takes a second or two: a run would take four CPU-seconds and, on ECS,
a task. However many runs ended between two ticks, the next tick makes the board once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import starmap
from typing import Self

import dagster as dg

from runway_pipelines.credentials.connection_asset import EDU_CONNECTION
from runway_pipelines.credentials.known_keys import known_keys
from runway_pipelines.dagster_events import delete_old_runless
from runway_pipelines.errors import Permanent
from runway_pipelines.operations.retention import ENDED
from runway_pipelines.operations.tags import OWNERS, domain, runbook
from runway_pipelines.operations.wording import SHA256_SHOWN, first_few, minute, utc_minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.board import Board, PartnerRow
from runway_pipelines.rosters.board_page import MADE_EVERY_MINUTES, board_page
from runway_pipelines.rosters.board_reading import read_board, versions_of_indexes
from runway_pipelines.rosters.decision_job import index_as_it_is
from runway_pipelines.rosters.districts import District, DistrictState, LastChange, grouped, on_one_line
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER, PARTNER_ROSTER_INDEX, decision_events
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.manifest import BOARD_KEY, Manifest
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import read_published
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.systems.aws.object_store import ObjectStore

BOARD = dg.AssetKey(["rosters", "board"])
SENSOR_NAME = "roster_board_sensor"
# Mapped to no partition: the board is made from the documents as they are. Otherwise Dagster would call it unsynced
# after each partner's newest event, and for ever if a partner has none.
MADE_OF = [
    dg.AssetDep(key, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))
    for key in (PARTNER_ROSTER_INDEX, EDU_CONNECTION)
]
HTML = "text/html; charset=utf-8"
# A materialization takes up to 20 KB of Dagster's storage for 90 days: one an hour while nothing changes.
RECORDED_EVERY = timedelta(hours=1)
MOST_PARTNERS = 100  # rows of a table; the page has all
MOST_DISTRICTS = 30
MOST_NAMES = 10
MOST_CHANGES = 10


def build_board_asset(advice: Advice) -> dg.AssetsDefinition:
    """The asset, for whoever wants the board now."""

    @dg.asset(
        key=BOARD,
        deps=MADE_OF,
        description="All partners at a glance, the worst first: how many districts are fresh, stale, held, failed or "
        "never refreshed, how old the oldest roster and the key are, and what to do next. Made by roster_board_sensor "
        "every 15 minutes, after each run and each decision; materialize it to have it now. Its page is board.html in "
        "the bucket.",
        group_name="rosters",
        owners=list(OWNERS),
        tags=domain("rosters"),
        kinds={"s3"},
        metadata=runbook("the-board"),
    )
    def roster_board(context: dg.AssetExecutionContext, rosters: RosterServices) -> dg.MaterializeResult:
        board = make_and_store(context.instance, rosters, datetime.now(UTC), advice)
        return dg.MaterializeResult(metadata=board_metadata(board, rosters.store))

    return roster_board


def build_board_retention(retention_days: int) -> dg.OpDefinition:
    """Deletes what the sensor recorded more than ``retention_days`` ago, because no run takes it along."""

    @dg.op(description=f"Deletes what rosters/board recorded more than {retention_days} days ago.")
    def forget_old_boards(context: dg.OpExecutionContext) -> None:
        deleted = delete_old_runless(context.instance, BOARD, datetime.now(UTC) - timedelta(days=retention_days))
        context.log.info(f"{deleted} materializations of {BOARD.to_user_string()} deleted")

    return forget_old_boards


def make_and_store(instance: dg.DagsterInstance, rosters: RosterServices, now: datetime, advice: Advice) -> Board:
    """Read everything, and write the page. Raises what the database and the bucket raise."""
    registry = rosters.registry()
    keys = known_keys(instance, rosters.secrets, registry.partners, now)
    board = read_board(rosters.store, registry, keys, rosters.policy, now, advice)
    rosters.store.overwrite(BOARD_KEY, board_page(board).encode(), content_type=HTML)
    return board


def board_metadata(board: Board, store: ObjectStore) -> Mapping[str, dg.MetadataValue | int | float | str]:
    """What a person asks, in words and tables, then the numbers that Dagster plots."""
    metadata: dict[str, dg.MetadataValue | int | float | str] = {"summary": board.summary}
    if rows := [row for each in board.partners for row in _not_fresh(each)]:
        metadata["not fresh"] = dg.MetadataValue.table(rows[:MOST_DISTRICTS])
    metadata["what changed"] = board.changes
    if changed := board.changed:
        metadata["changed most"] = dg.MetadataValue.table(list(starmap(_changed, changed[:MOST_CHANGES])))
    if board.partners:
        metadata["board"] = dg.MetadataValue.table(list(map(_record, board.partners[:MOST_PARTNERS])))
    metadata |= {**board.totals, "partners": len(board.partners), "rosters changed": len(changed)}
    if board.oldest_hours is not None:
        metadata["oldest hours"] = board.oldest_hours
    metadata["dagster/uri"] = store.uri(BOARD_KEY)
    return metadata


def _not_fresh(row: PartnerRow) -> Iterator[dg.TableRecord]:
    """The partner's districts that need a look. Those with the same state, reason and next step share a row."""
    for group in grouped(row.to_look_at):
        first = group.first
        names = first_few([district.tenant_code for district in group.districts], MOST_NAMES)
        yield dg.TableRecord(
            {
                "partner": row.partner_id,
                "district": names,
                "state": first.state.value + (", pinned" if first.is_pinned else ""),
                "since": group.since_in_words.removeprefix("since "),
                "why": first.reason,
                "next step": on_one_line(first.next_step),
            }
        )


def _changed(partner_id: str, district: District, change: LastChange) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "partner": partner_id,
            "district": district.tenant_code,
            "when (UTC)": minute(change.at),
            "students": district.students,
            "what": change.in_words,
        }
    )


def _record(row: PartnerRow) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "partner": row.partner_id,
            "fresh": row.fresh,
            "stale": row.stale,
            "held": row.held,
            "failed": row.failed,
            "never": row.never,
            "oldest hours": row.oldest_hours,
            "key age": "none" if row.keys.trouble else row.keys.age_in_words,
            "last rotation": row.keys.last_rotation,
            "next step": row.next_step,
        }
    )


@dataclass(frozen=True)
class BoardCursor:
    """When the board was last made and from which ``indexes``; when it was last recorded and with which numbers."""

    made_at: str = ""
    recorded_at: str = ""
    numbers: str = ""
    indexes: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor. An unreadable one counts as empty, so the board is made again."""
        try:
            cursor = cls(**json.loads(text or "{}"))
            for moment in (cursor.made_at, cursor.recorded_at):
                if moment and datetime.fromisoformat(moment).tzinfo is None:
                    return cls()
        except (TypeError, ValueError):
            return cls()
        return cursor

    def to_json(self) -> str:
        """As the sensor keeps it."""
        return json.dumps(asdict(self))


def is_due(moment: str, now: datetime, every: timedelta) -> bool:
    """Whether what was done at ``moment`` is due again. A moment in the future came from a wrong clock, and is due."""
    return not moment or not timedelta() <= now - datetime.fromisoformat(moment) < every


def build_board_sensor(advice: Advice, *, interval_seconds: int) -> dg.SensorDefinition:
    """Makes the board every 15 minutes, and at the first tick after a run ended or an index changed."""

    @dg.sensor(
        name=SENSOR_NAME,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=list(OWNERS),
        description="Makes rosters/board in its own tick: every 15 minutes, and once after runs that ended or "
        "decisions made since. Requests no runs.",
    )
    def roster_board_sensor(context: dg.SensorEvaluationContext, rosters: RosterServices) -> dg.SensorResult:
        now = datetime.now(UTC)
        cursor = BoardCursor.parse(context.cursor)
        indexes = versions_of_indexes(rosters) or cursor.indexes
        if (
            not is_due(cursor.made_at, now, timedelta(minutes=MADE_EVERY_MINUTES))
            and indexes == cursor.indexes
            and not _has_ended(context.instance, datetime.fromisoformat(cursor.made_at))
        ):
            return dg.SensorResult(skip_reason=f"nothing ended since {cursor.made_at[:16]}", cursor=cursor.to_json())
        board = make_and_store(context.instance, rosters, now, advice)
        # To the microsecond: rounded down, a run that ended earlier in the same second would make the board again.
        at, numbers = now.isoformat(), json.dumps([row_numbers(row) for row in board.partners])
        if numbers == cursor.numbers and not is_due(cursor.recorded_at, now, RECORDED_EVERY):
            kept = BoardCursor(at, cursor.recorded_at, numbers, indexes)
            return dg.SensorResult(skip_reason=f"{board.summary}, as before", cursor=kept.to_json())
        return dg.SensorResult(
            skip_reason=board.summary,
            cursor=BoardCursor(at, at, numbers, indexes).to_json(),
            asset_events=[
                dg.AssetMaterialization(BOARD, metadata=board_metadata(board, rosters.store)),
                *_decided_elsewhere(rosters, board, cursor.made_at),
            ],
        )

    return roster_board_sensor


def _decided_elsewhere(
    rosters: RosterServices, board: Board, since: str
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """Events of the decisions that were made on the command line since the last board: Dagster does not know them."""
    # A decision's moment is stored in whole seconds.
    after = datetime.fromisoformat(since).replace(microsecond=0) if since else board.made_at
    for row in board.partners:
        decided = [
            each for each in row.districts if each.decided_at and datetime.fromisoformat(each.decided_at) >= after
        ]
        if not decided:
            continue
        index = rosters.index(row.partner_id)
        for district in decided:
            yield from _decided(rosters, index, district)
        yield index_as_it_is(rosters, index)


def _decided(
    rosters: RosterServices, index: PartnerIndex, district: District
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    tenant = PartnerTenant(index.partner_id, district.tenant_code)
    said = {
        "state": district.state.value,
        "decided": f"{utc_minute(district.decided_at)}, on the command line",
        "reason": district.reason,
    }
    manifest = None if district.state is DistrictState.HELD else _published_manifest(rosters.store, tenant)
    if manifest is None:
        said["next step"] = on_one_line(district.next_step)
        yield dg.AssetObservation(CROSS_YEAR_ROSTER, partition=tenant.key, metadata=said)
        return
    as_it_is = TenantOutcome(
        tenant,
        TenantStatus.UNCHANGED,
        district.reason,
        0.0,
        manifest=manifest,
        school_years=index.school_years,
    )
    yield from decision_events(as_it_is, rosters.store, said, rosters.policy.advice)


def _published_manifest(store: ObjectStore, tenant: PartnerTenant) -> Manifest | None:
    """The published manifest; None also if it cannot be read, because one district must not stop the board."""
    try:
        published = read_published(store, tenant)
    except Permanent:
        return None
    return published.manifest if published else None


def row_numbers(row: PartnerRow) -> list[object]:
    """A partner's numbers. The board is recorded again when those of any partner change.

    Ages are left out, because they always change. The texts that people read are included as a digest.
    """
    newest = max((district.change.at for district in row.districts if district.change), default="")
    listed = [(each.tenant_code, each.is_pinned, each.reason, each.next_step) for each in row.to_look_at]
    decided = max((district.decided_at for district in row.districts if district.decided_at), default="")
    said = hashlib.sha256(json.dumps([row.trouble, row.next_step, listed]).encode()).hexdigest()[:SHA256_SHOWN]
    return [row.partner_id, row.fresh, row.stale, row.held, row.failed, row.never, said, newest, decided]


def _has_ended(instance: dg.DagsterInstance, since: datetime) -> bool:
    """Whether any run that has ended was updated since then: one statement, whatever the number of runs."""
    return bool(instance.get_run_ids(dg.RunsFilter(statuses=ENDED, updated_after=since), limit=1))
