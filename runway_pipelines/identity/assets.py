"""The library's identity in Dagster: three tables, written by one graph of ops, and their checks.

plan -> a step for each shard -> summarize. A stopped shard still returns its result, so that the summary can report
everything before it fails the run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import orjson

from runway_pipelines.errors import RunwayError
from runway_pipelines.identity.counts import Counts, disbelief, dry_run_document, total
from runway_pipelines.identity.health import IdentityHealth
from runway_pipelines.identity.options import IdentityOptions
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.neighbours import LIBRARY, LML, columns
from runway_pipelines.operations.run_report import RUN_REPORT, Problem, RunReport
from runway_pipelines.operations.tags import OWNERS, domain, runbook

LIBRARY_IDENTITY = dg.AssetKey(["identity", "library_identity"])
LIBRARY_IDENTITY_SOURCE = dg.AssetKey(["identity", "library_identity_source"])
COMPILATION_TRACK_ARTIST = dg.AssetKey(["identity", "compilation_track_artist"])
GRAPH = "library_identity_graph"
COUNTS = "counts for machines"
# Below this, a share is noise: three of five unresolved are a quiet night.
FEWEST_ANSWERS = 50
# The most answers that may not be believed. Above it, the run fails.
MOST_DISBELIEF = 0.05
# Warn when at least this many tracks were offered and half of them match no row.
FEWEST_TRACKS = 10
MOST_UNMATCHED_TRACKS = 0.5
# Judges freshness when stale_days is 0, which asks again about everything.
DEFAULT_STALE_DAYS = 7

CHECK_SPECS = [
    dg.AssetCheckSpec(name, asset=LIBRARY_IDENTITY, description=description)
    for name, description in {
        "counts_add_up": "Every scanned library has an outcome.",
        "answers_believed": f"At most {MOST_DISBELIEF:.0%} of LML's answers could not be believed.",
        "unresolved_share": "The share of `unresolved` answers is not unusually large.",
        "verified_in_time": "Most canonical libraries were verified in time.",
        "sources_complete": "Every main row of ours has a source; one without means that none could be written.",
    }.items()
]
_CHECK_OUTS = {spec.get_python_identifier(): spec.name for spec in CHECK_SPECS}
_TABLES = {
    "library_identity": (LIBRARY_IDENTITY, "One row per library: the composed identity, verified by LML."),
    "library_identity_source": (
        LIBRARY_IDENTITY_SOURCE,
        "The provenance: one row for each source behind LML's verdict.",
    ),
    "compilation_track_artist": (COMPILATION_TRACK_ARTIST, "Each track's artist, linked if LML knows it."),
}
_COLUMNS = {
    "library_identity": columns(
        library_id="int: the library",
        discogs_master_id="int: the album, at Discogs",
        discogs_release_id="int: its release, at Discogs",
        musicbrainz_release_group_mbid="uuid: the album, at MusicBrainz",
        musicbrainz_release_mbid="uuid: its release, at MusicBrainz",
        musicbrainz_recording_mbid="uuid: a recording, at MusicBrainz",
        wikidata_qid="text: the album, at Wikidata",
        spotify_id="text: the album, at Spotify",
        apple_music_id="text: the album, at Apple Music",
        confidence="real: how sure LML is, 0 to 1",
        method="text: how LML knows",
        last_verified_at="timestamptz: when LML last confirmed the row",
    ),
    "library_identity_source": columns(
        library_id="int: the library",
        source="text: who says so, such as discogs",
        external_id="text: the album's ID there",
        method="text: how it was found",
        confidence="real: how sure LML is of this source, 0 to 1",
        last_verified_at="timestamptz: when LML last confirmed the row",
    ),
    "compilation_track_artist": columns(
        library_id="int: the compilation",
        artist_name="varchar: the track's artist, as the catalogue has it",
        track_title="varchar: the track's title",
        track_position="varchar: where it is, such as A1",
        track_artist_id="int: the artist that LML names, if the catalogue has one of that name",
        track_artist_link_confidence="real: how sure LML is, 0 to 1",
        track_artist_link_method="text: how the artist was linked; lml_backfill is ours",
    ),
}


@dataclass(frozen=True)
class Shard:
    """The libraries with ``id % options.shard_count == index``. All shards share the rest."""

    index: int
    as_of: datetime
    options: Mapping[str, Any]
    has_artist_columns: bool


@dataclass(frozen=True)
class ShardResult:
    """A shard's counts, and the run's circuit when it ended: ``failure`` says why it is open, None if it is not."""

    as_of: datetime
    counts: Counts
    failure: str | None
    is_writable: bool


@dg.op(ins={"library": dg.In(dg.Nothing), "lml": dg.In(dg.Nothing)}, out=dg.DynamicOut(Shard))
def plan_identity_run(
    context: dg.OpExecutionContext, config: IdentityOptions, identity: IdentityServices
) -> Iterator[dg.DynamicOutput[Shard]]:
    """Count what is due in each cohort, and cut the run into shards."""
    as_of = datetime.now(UTC)
    try:
        identity.require_ready(config)
        due = identity.due(config, as_of)
        has_artist_columns = identity.has_artist_columns()
    except RunwayError as error:
        raise _failure(str(error), Counts()) from None
    context.log.info("due: " + ", ".join(f"{number} {cohort}" for cohort, number in due.items()))
    for index in range(config.shard_count):
        yield dg.DynamicOutput(
            Shard(index, as_of, config.model_dump(), has_artist_columns), mapping_key=f"shard_{index}"
        )


@dg.op
def resolve_identity_shard(context: dg.OpExecutionContext, shard: Shard, identity: IdentityServices) -> ShardResult:
    """Ask LML about a shard's libraries and write its verdicts, several calls in flight."""
    options = IdentityOptions(**shard.options)
    circuit = identity.run_circuit(options)
    counts = identity.resolve_shard(
        options, shard.as_of, shard.index, circuit, context.log, has_artist_columns=shard.has_artist_columns
    )
    context.log.info(f"shard {shard.index}: {orjson.dumps(counts.document()).decode()}")
    return ShardResult(shard.as_of, counts, str(circuit.failure) if circuit.failure else None, circuit.is_writable)


@dg.op(out={name: dg.Out(dg.Nothing, is_required=False) for name in (*_TABLES, *_CHECK_OUTS)})
def summarize_identity_run(
    context: dg.OpExecutionContext, config: IdentityOptions, identity: IdentityServices, results: list[ShardResult]
) -> Iterator[object]:
    """Merge and check the counts, and record the selected tables as materialized.

    A dry run, or a run with nothing due, only observes: the tables keep showing the last real run.
    """
    counts = total(result.counts for result in results)
    failures = sorted({result.failure for result in results if result.failure})
    health: IdentityHealth | None = None
    context.log.info(f"identity run: {orjson.dumps(counts.document()).decode()}")
    if (warning := unmatched_tracks(counts)) is not None:
        context.log.warning(warning)
    if config.dry_run:
        document = dry_run_document(counts)
        context.log.info(f"dry run: {orjson.dumps(document).decode()}")
        yield dg.AssetObservation(LIBRARY_IDENTITY, metadata={"dry run": dg.MetadataValue.json(document)})
    else:
        try:
            if all(result.is_writable for result in results):
                # The moment by which the run told what was due: what is late counts from there.
                as_of = min((result.as_of for result in results), default=datetime.now(UTC))
                health = identity.health(as_of - timedelta(days=config.stale_days or DEFAULT_STALE_DAYS))
        except RunwayError as error:
            failures.append(str(error))
    judged = {} if config.dry_run else {each.check_name: each for each in evaluations(counts, health, config)}
    for out, name in _CHECK_OUTS.items():
        if out in context.selected_output_names:
            # An output without an evaluation: the check was not judged, and keeps its last result.
            yield judged.get(name) or dg.Output(None, out)
    if counts.not_believed_share > MOST_DISBELIEF:
        failures.append(_not_believed(counts))
    if failures:
        raise _failure(failures[0], counts)
    if health is not None and not counts.scanned and not config.dry_run:
        # A materialization would show zeros in place of what the last run did.
        metadata = _freshness(health) | {COUNTS: dg.MetadataValue.json(counts.document())}
        yield dg.AssetObservation(LIBRARY_IDENTITY, metadata=metadata, description="nothing was due")
    elif health is not None:
        for name in _TABLES:
            if name in context.selected_output_names:
                yield dg.Output(None, name, metadata=table_metadata(name, counts, health))


@dg.graph_multi_asset(
    name=GRAPH,
    group_name="identity",
    ins={
        "library": dg.AssetIn(LIBRARY, dagster_type=dg.Nothing),
        "lml": dg.AssetIn(LML, dagster_type=dg.Nothing),
    },
    outs={
        name: dg.AssetOut(
            key=key,
            description=description,
            is_required=False,
            owners=OWNERS,
            tags=domain("identity"),
            kinds={"postgres"},
            metadata={**runbook("the-librarys-identity"), **_COLUMNS[name]},
        )
        for name, (key, description) in _TABLES.items()
    },
    check_specs=CHECK_SPECS,
    # Whichever table one asks for, the run writes all three, because their rows belong together.
    can_subset=True,
    config=dg.ConfigMapping(
        config_schema=IdentityOptions.to_fields_dict(),
        config_fn=lambda options: {
            "plan_identity_run": {"config": options},
            "summarize_identity_run": {"config": options},
        },
    ),
)
def library_identity_graph(library: Any, lml: Any) -> Any:
    """The graph; one config has all of its options. Its inputs carry nothing: they draw the lineage."""
    return summarize_identity_run(plan_identity_run(library=library, lml=lml).map(resolve_identity_shard).collect())


def _failure(reason: str, counts: Counts) -> dg.Failure:
    """The run's failure, with the report for operators."""
    return dg.Failure(
        description=f"{reason} {counts.scanned} libraries were asked about; the next run resumes with what is left.",
        metadata={
            COUNTS: dg.MetadataValue.json(counts.document()),
            "outcomes": dg.MetadataValue.json(counts.outcomes()),
            LIBRARY_IDENTITY.to_user_string(): dg.MetadataValue.text(reason),
            RUN_REPORT: dg.MetadataValue.json(
                RunReport(counts.outcomes(), {LIBRARY_IDENTITY.to_user_string(): Problem(reason)}).document()
            ),
        },
        allow_retries=False,
    )


def evaluations(
    counts: Counts, health: IdentityHealth | None, options: IdentityOptions
) -> Iterator[dg.AssetCheckResult]:
    """The run's checks; without ``health`` (an unreadable catalogue), only those of the counts."""
    answered = counts.accounted_for - counts.rows_skipped.total()
    unresolved = counts.rows_unresolved / answered if answered else 0.0
    judged = {
        "counts_add_up": (
            counts.scanned == counts.accounted_for,
            dg.AssetCheckSeverity.ERROR,
            f"{counts.scanned} scanned, {counts.accounted_for} accounted for",
        ),
        "answers_believed": (
            counts.not_believed_share <= MOST_DISBELIEF,
            dg.AssetCheckSeverity.ERROR,
            _not_believed(counts),
        ),
        "unresolved_share": (
            unresolved <= options.most_unresolved or answered < FEWEST_ANSWERS,
            dg.AssetCheckSeverity.WARN,
            f"{unresolved:.1%} of {answered} answers are unresolved",
        ),
    }
    if health is not None:
        judged["verified_in_time"] = (
            health.fresh_share >= options.least_fresh,
            dg.AssetCheckSeverity.WARN,
            f"{health.verified_in_time} of {health.verifiable} canonical libraries are verified in time",
        )
        judged["sources_complete"] = (
            health.mains_without_sources == 0,
            dg.AssetCheckSeverity.WARN,
            f"{health.mains_without_sources} main rows lack their sources",
        )
    for name, (passed, severity, reason) in judged.items():
        yield dg.AssetCheckResult(
            asset_key=LIBRARY_IDENTITY, check_name=name, passed=passed, severity=severity, description=reason
        )


def _not_believed(counts: Counts) -> str:
    """How many answers were not believed, and why."""
    number = counts.others["lml_not_believed"]
    said = f"{number} of {counts.scanned} answers ({counts.not_believed_share:.1%}) are not believed"
    return f"{said}: {disbelief(counts)}" if number else said


def unmatched_tracks(counts: Counts) -> str | None:
    """The warning that half or more of the offered tracks have no row in the catalogue; None if it does not apply."""
    offered, unmatched = (counts.others[f"compilation_track_rows_{name}"] for name in ("offered", "unmatched"))
    if offered < FEWEST_TRACKS or unmatched < offered * MOST_UNMATCHED_TRACKS:
        return None
    return f"{unmatched} of {offered} tracks that LML offers ({unmatched / offered:.0%}) match no row of the catalogue"


def _freshness(health: IdentityHealth) -> dict[str, dg.MetadataValue]:
    return {"share of canonical libraries verified in time": dg.MetadataValue.float(round(health.fresh_share, 4))}


def table_metadata(name: str, counts: Counts, health: IdentityHealth) -> dict[str, dg.MetadataValue]:
    """The run's metadata for one of the tables.

    `library_identity` has the libraries' outcomes as a table for people, and every count as JSON for machines.
    """
    if name == "library_identity":
        outcomes = [dg.TableRecord({"what": what, "libraries": number}) for what, number in counts.outcomes().items()]
        columns = dg.TableSchema([dg.TableColumn("what"), dg.TableColumn("libraries", "int")])
        return {
            "libraries": dg.MetadataValue.table(outcomes, columns),
            **_freshness(health),
            COUNTS: dg.MetadataValue.json(counts.document()),
        }
    prefix = "source_rows_" if name == "library_identity_source" else "compilation_track_rows_"
    return {key: dg.MetadataValue.int(int(n)) for key, n in sorted(counts.others.items()) if key.startswith(prefix)}
