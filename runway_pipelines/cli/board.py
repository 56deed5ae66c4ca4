"""``rosters status|list``: the board in the terminal, and every district's roster on a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runway_pipelines.cli.arguments import PartnerArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.registry import known_partner
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import first_few, minute

if TYPE_CHECKING:
    from runway_pipelines.rosters.board import Board, PartnerRow
    from runway_pipelines.rosters.districts import District, DistrictGroup
    from runway_pipelines.rosters.services import RosterServices

STYLES = {
    "fresh": "green",
    "stale": "yellow",
    "held": "bold red",
    "failed": "bold red",
    "never": "yellow",
    "left": "dim",
}
MOST_GROUPS = 3  # of each partner, when all partners are shown
MOST_NAMES = 8
MOST_CHANGES = 5


@click.command(
    short_help="How fresh the rosters are, and what to do.",
    epilog=examples(
        "runway-pipelines rosters status          # all partners, the worst first",
        "runway-pipelines rosters status acme     # its districts, and why",
        "runway-pipelines rosters status --watch  # every 10 seconds, until Ctrl-C",
        "runway-pipelines rosters status --json | jq .partners[].held",
    ),
)
@click.argument("partner", metavar="[PARTNER]", type=PartnerArgument(), required=False)
@json_option
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C; with --json, a document on each line.")
@click.option(
    "--every", type=click.FloatRange(min=1), default=10.0, show_default=True, help="With --watch: seconds between two."
)
@click.pass_obj
def status(target: Target, partner: str | None, is_json: bool, watch: bool, every: float) -> None:
    """How fresh the rosters are, of all partners or of PARTNER, and what to do about those that are not.

    From the partners' indexes, as rosters/board has it in Dagster: what the last refreshes found, not a new one.

    Exit code 3 when some roster is not fresh.
    """
    with target.services() as services:
        if not watch:
            board = _board(services, target, partner)
            _show(board, is_json=is_json, is_one=partner is not None)
            sys.exit(ExitCode.of(is_well=board.is_fine))
        try:
            while True:
                _show_again(
                    lambda: _board(services, target, partner), is_json=is_json, is_one=partner is not None, every=every
                )
                time.sleep(every)
        except KeyboardInterrupt:
            return


@click.command(
    short_help="Every district, on a line each.",
    name="list",
    epilog=examples(
        "runway-pipelines rosters list            # every district",
        "runway-pipelines rosters list acme       # of one partner",
        "runway-pipelines rosters list --json | jq -r '.[].tenant_code'",
    ),
)
@click.argument("partner", metavar="[PARTNER]", type=PartnerArgument(), required=False)
@json_option
@click.pass_obj
def list_rosters(target: Target, partner: str | None, is_json: bool) -> None:
    """Every district of all partners or of PARTNER: its state, its size, and when it was last confirmed."""
    with target.services() as services:
        board = _board(services, target, partner)
    by_name = sorted(board.partners, key=lambda row: row.partner_id)
    unread = [row for row in by_name if row.trouble]
    rows = [{"partner_id": row.partner_id, **asdict(district)} for row in by_name for district in by_code(row)]
    print_result(rows, lambda: console.print(_districts_table(by_name)), is_json=is_json)
    if unread:
        raise click.ClickException(
            "; ".join(f"{row.partner_id}: its index cannot be read: {row.trouble}" for row in unread)
        )


def _board(services: RosterServices, target: Target, partner_id: str | None) -> Board:
    """The board now, of one partner if one was named; raises `Permanent` for one that has no rosters."""
    from dataclasses import replace

    from runway_pipelines.credentials.known_keys import keys_now
    from runway_pipelines.rosters.board_reading import read_board

    registry = services.registry()
    if partner_id is not None:
        registry = replace(registry, partners={partner_id: known_partner(registry, partner_id)})
    now = datetime.now(UTC)
    keys = keys_now(services.secrets, registry.partners, now)
    return read_board(services.store, registry, keys, services.policy, now, target.advice())


def _show(board: Board, *, is_json: bool, is_one: bool, is_line: bool = False) -> None:
    print_result(
        board.document(),
        lambda: print_board(console, board, most_groups=None if is_one else MOST_GROUPS),
        is_json=is_json,
        on_one_line=is_line,
    )


def _show_again(read: Callable[[], Board], *, is_json: bool, is_one: bool, every: float) -> None:
    """Show the board once more; if it cannot be read now, it may be in a moment."""
    try:
        board = read()
    except RunwayError as error:
        click.echo(f"{error} Tried again in {every:g} seconds.", err=True)
        return
    if not is_json and console.is_terminal:
        console.clear()
    _show(board, is_json=is_json, is_one=is_one, is_line=True)


def print_board(to: Console, board: Board, *, most_groups: int | None) -> None:
    """The partners as a table, then their districts that are not fresh. A line to copy is never wrapped."""
    made = f"as of {board.made_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    to.print(Text(f"{board.summary} ({made}).", style="green" if board.is_fine else "bold"))
    to.print(_partners_table(board))
    for row in board.partners:
        lines = list(_partner_lines(row, most_groups))
        if lines:
            to.print(Text(f"\n{row.partner_id}", style="bold"))
        for line in lines:
            to.print(line, soft_wrap=True, highlight=False)
    to.print(Text(f"\n{board.changes}."))
    for partner_id, district, change in board.changed[:MOST_CHANGES]:
        to.print(Text(f"  {partner_id}/{district.tenant_code}: {change.in_words}"), soft_wrap=True, highlight=False)
    if left := len(board.changed[MOST_CHANGES:]):
        to.print(Text(f"  and {left:,} more: rosters list --json has all"))


def _partners_table(board: Board) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("partner", overflow="fold")
    for name in board.totals:
        table.add_column(name, justify="right")
    for name in ("oldest", "key age", "last rotation"):
        table.add_column(name, overflow="fold")
    for row in board.partners:
        key = Text("none", style="bold red") if row.keys.trouble else Text(row.keys.age_in_words)
        if row.is_key_old:
            key.stylize("yellow")
        table.add_row(
            Text(row.partner_id),
            *(_count(name, getattr(row, name)) for name in board.totals),
            "none" if row.oldest_hours is None else f"{row.oldest_hours:,.0f} h",
            key,
            Text(row.keys.last_rotation),
        )
    return table


def _count(name: str, count: int) -> Text:
    return Text(f"{count:,}", style=STYLES[name] if count else "dim")


def _partner_lines(row: PartnerRow, most_groups: int | None) -> Iterator[Text]:
    from runway_pipelines.rosters.districts import grouped

    if row.trouble:
        yield Text(f"  its index cannot be read: {row.trouble}", style="bold red")
    if row.keys.trouble:
        yield Text(f"  no usable credentials: {row.keys.trouble}", style="bold red")
    groups = grouped(row.to_look_at)
    shown = len(groups) if most_groups is None else most_groups
    for group in groups[:shown]:
        yield from _group_lines(group)
    left = sum(len(group.districts) for group in groups[shown:])
    if row.next_step and (not groups or left or row.trouble):
        more = f"and {left:,} more. " if left else ""
        yield Text(f"  {more}Next: {row.next_step}")


def _group_lines(group: DistrictGroup) -> Iterator[Text]:
    first = group.first
    names = first_few([district.tenant_code for district in group.districts], MOST_NAMES)
    head = Text("  ").append_text(state_text(first)).append(f" {names}")
    if group.since_in_words:
        head.append(f", {group.since_in_words}", style="dim")
    yield head
    if first.reason:
        yield Text(f"    {first.reason}")
    yield from (Text(f"    {_next(line)}") for line in first.next_step.splitlines())


def _next(line: str) -> str:
    """A line of a next step, labelled unless it says itself what it is for."""
    return line if line.startswith(("To ", "If ")) else f"Next: {line}"


def _districts_table(rows: list[PartnerRow]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("district", overflow="fold")
    table.add_column("state")
    for name in ("students", "lines"):
        table.add_column(name, justify="right")
    table.add_column("confirmed (UTC)", no_wrap=True)
    for row in rows:
        for district in by_code(row):
            table.add_row(
                Text(f"{row.partner_id}/{district.tenant_code}"),
                state_text(district),
                f"{district.students:,}",
                f"{district.lines:,}",
                minute(district.confirmed_at) if district.confirmed_at else "never",
            )
    return table


def by_code(row: PartnerRow) -> list[District]:
    """The partner's districts by their codes."""
    from runway_pipelines.rosters.districts import in_order

    return sorted(row.districts, key=lambda each: in_order(each.tenant_code))


def state_text(district: District) -> Text:
    """The state in its colour."""
    text = Text(district.state.value, style=STYLES[district.state.value])
    return text.append(", pinned", style="bold yellow") if district.is_pinned else text
