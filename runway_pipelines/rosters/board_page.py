"""The board as one HTML page: pure. It needs nothing but itself: no script, no font, no image from anywhere.

Everything that was not written here is escaped: names and codes are the application's, and may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC
from html import escape

from runway_pipelines.operations.run_report import hours
from runway_pipelines.operations.wording import first_few, how_many, minute
from runway_pipelines.rosters.advice import COMMAND
from runway_pipelines.rosters.board import Board, PartnerRow
from runway_pipelines.rosters.districts import COUNTED, DistrictGroup, grouped

# What a browser may load for the page: nothing. The server says so too.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MADE_EVERY_MINUTES = 15
# Shown for a partner; the terminal has the rest. A page of 30 partners with this many each opens within a second.
MOST_GROUPS = 25
MOST_NAMES = 40
MOST_CHANGES = 50
_ADDRESS = re.compile(r"https?://[^\s<>\"']+")
_COMMAND = re.compile(rf"{COMMAND} .+?(?=, then |, mend | says | deletes |\n|\Z)")
_BAR_WIDTH = 120
_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --quiet: #5a6474; --line: #d9dee6;
  --fresh: #1a7f4b; --stale: #9a6700; --held: #b3261e; --failed: #8c1d40; --never: #4a5568; --left: #4a5568;
  --pill: #fff; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161d; --card: #1b212b; --text: #e6eaf0; --quiet: #a3adbb; --line: #323b49;
    --fresh: #4cc38a; --stale: #e3b341; --held: #ff8a80; --failed: #ff7eb0; --never: #a9b4c4; --left: #a9b4c4;
    --pill: #12161d; --link: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h2 small, .quiet { color: var(--quiet); font-weight: normal; }
section { content-visibility: auto; contain-intrinsic-size: auto 30rem; } /* laid out when it comes into sight */
p { margin: .3rem 0; } a { color: var(--link); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; margin: 1rem 0; padding: 0; }
.tiles li { flex: 1 1 6.5rem; background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--line);
  border-radius: 6px; padding: .5rem .8rem; color: var(--quiet); }
.tiles b { display: block; font-size: 1.7rem; line-height: 1.2; color: var(--text); }
.tiles b, .number { font-variant-numeric: tabular-nums; }
.tiles .fresh { border-top-color: var(--fresh); } .tiles .stale { border-top-color: var(--stale); }
.tiles .held { border-top-color: var(--held); } .tiles .failed { border-top-color: var(--failed); }
.tiles .never { border-top-color: var(--never); }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; }
td.zero { color: var(--quiet); } td.words { white-space: nowrap; }
td.stale, td.held, td.failed, td.never { font-weight: 600; }
.stale { color: var(--stale); } .held { color: var(--held); } .failed { color: var(--failed); }
td.never { color: var(--never); } .warned { color: var(--stale); font-weight: 600; }
svg.bar { display: block; margin-top: .25rem; } .bar .fresh { fill: var(--fresh); } .bar .stale { fill: var(--stale); }
.bar .held { fill: var(--held); } .bar .failed { fill: var(--failed); } .bar .never { fill: var(--never); }
.group { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem; margin: .5rem 0; overflow-wrap: anywhere; color: var(--text); }
.group.stale { border-left-color: var(--stale); } .group.held { border-left-color: var(--held); }
.group.failed { border-left-color: var(--failed); } .group.never { border-left-color: var(--never); }
.pill { display: inline-block; border-radius: 4px; padding: 0 .45rem; margin-right: .5rem; font-size: .85rem;
  font-weight: 600; background: var(--never); }
span.pill { color: var(--pill); }
.pill.fresh { background: var(--fresh); } .pill.stale { background: var(--stale); }
.pill.held { background: var(--held); } .pill.failed { background: var(--failed); }
.step { border-left: 2px solid var(--line); padding-left: .6rem; }
code { font: .92em ui-monospace, monospace; user-select: all; overflow-wrap: anywhere; }
@media (max-width: 50rem) {
  table, tbody, tr, td, th[scope=row] { display: block; border: 0; }
  thead { display: none; } table { background: none; }
  tr { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: .3rem 0; }
  td, th[scope=row] { padding: .15rem .8rem; } td.number { text-align: left; } td.zero { display: none; }
  td::before { content: attr(data-label) ": "; color: var(--quiet); font-weight: normal; }
  td.step-of { overflow-wrap: anywhere; } .tiles li { flex-basis: 28%; } .tiles b { font-size: 1.3rem; }
}
"""


def board_page(board: Board) -> str:
    """The whole document."""
    not_fresh = sum(row.not_fresh for row in board.partners)
    title = "Rosters: all fresh" if board.is_fine else f"Rosters: {not_fresh:,} not fresh"
    to_look_at = [row for row in board.partners if row.to_look_at or row.trouble or row.keys.trouble]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_SECURITY_POLICY)}">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            *_head(board),
            *_partners(board),
            *(part for row in to_look_at for part in _partner(row)),
            *_changes(board),
            "</body></html>\n",
        ]
    )


def _head(board: Board) -> Iterator[str]:
    made = f"{board.made_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    yield f"<header><h1>Cross-year rosters</h1><p>{escape(board.summary)}. "
    yield f'<a href="#changes">{escape(board.changes)}</a>.</p>'
    yield (
        f'<p class="quiet">As of {made}. A roster is fresh while the warehouse has confirmed it within '
        f"{hours(board.most_age):g} hours. This page is made every {MADE_EVERY_MINUTES} minutes, after each run and "
        "each decision; if it is older, look at roster_board_sensor.</p></header>"
    )
    yield '<ul class="tiles">'
    for name, count in board.totals.items():
        yield f'<li class="{name}"><b>{count:,}</b>{name}</li>'
    yield f"<li><b>{_age(board.oldest_hours)}</b>oldest</li></ul>"


def _partners(board: Board) -> Iterator[str]:
    if not board.partners:
        yield "<p>The registry has no partner with cross-year matching.</p>"
        return
    yield '<table><thead><tr><th scope="col">partner</th>'
    yield "".join(f'<th scope="col" class="number">{state.value}</th>' for state in COUNTED)
    yield "".join(f'<th scope="col">{name}</th>' for name in ("oldest", "key age", "last rotation", "next step"))
    yield "</tr></thead><tbody>"
    for row in board.partners:
        yield f'<tr><th scope="row">{_name(row)}{_bar(row)}</th>'
        for state in COUNTED:
            count = getattr(row, state.value)
            kind = state.value if count else "zero"
            yield f'<td class="number {kind}" data-label="{state.value}">{count:,}</td>'
        old = ' warned"' if row.is_key_old else '"'
        key = "none" if row.keys.trouble else row.keys.age_in_words
        yield f'<td class="words" data-label="oldest">{_age(row.oldest_hours)}</td>'
        yield f'<td class="words{old} data-label="key age">{escape(key)}</td>'
        yield f'<td data-label="last rotation">{escape(row.keys.last_rotation)}</td>'
        yield f'<td class="step-of" data-label="next step">{_marked_up(row.next_step) or "nothing to do"}</td></tr>'
    yield "</tbody></table>"


def _name(row: PartnerRow) -> str:
    shown = escape(row.partner_id)
    if row.to_look_at or row.trouble or row.keys.trouble:
        shown = f'<a href="#{_anchor(row)}">{shown}</a>'
    name = "" if row.name == row.partner_id else f' <span class="quiet">{escape(row.name)}</span>'
    return shown + name


def _bar(row: PartnerRow) -> str:
    """A bar of the states' shares, unless all is fresh; the numbers beside it say the same."""
    if row.is_fine:
        return ""
    x, parts = 0.0, []
    for state in COUNTED:
        width = _BAR_WIDTH * getattr(row, state.value) / row.total if row.total else 0.0
        if width:
            parts.append(f'<rect class="{state.value}" x="{x:.1f}" width="{max(width, 1.0):.1f}" height="6"/>')
        x += width
    return f'<svg class="bar" width="{_BAR_WIDTH}" height="6" aria-hidden="true">{"".join(parts)}</svg>'


def _partner(row: PartnerRow) -> Iterator[str]:
    link = f' <small><a href="{escape(row.page)}">in Dagster</a></small>' if _ADDRESS.fullmatch(row.page) else ""
    yield f'<section id="{_anchor(row)}"><h2>{escape(row.partner_id)} <small>{escape(row.name)}</small>{link}</h2>'
    if row.trouble:
        yield f'<p class="held">Its index cannot be read: {escape(row.trouble)}</p>'
    if row.keys.trouble:
        yield (
            f'<p class="held">No usable credentials: {escape(row.keys.trouble)}. None of its rosters is refreshed '
            "until it has some.</p>"
        )
    if not row.school_years:
        yield '<p class="quiet">It publishes to no school year: fresh rosters are only kept as snapshots.</p>'
    groups = grouped(row.to_look_at)
    yield from map(_group, groups[:MOST_GROUPS])
    if left := sum(len(group.districts) for group in groups[MOST_GROUPS:]):
        yield f'<p class="quiet">and {left:,} more: runway-pipelines rosters status {escape(row.partner_id)}</p>'
    yield "</section>"


def _changes(board: Board) -> Iterator[str]:
    """What changed last night, the greatest change first."""
    changed = board.changed
    yield f'<section id="changes"><h2>What changed</h2><p>{escape(board.changes)}.</p>'
    if changed:
        yield '<table><thead><tr><th scope="col">district</th><th scope="col">when (UTC)</th>'
        yield '<th scope="col" class="number">students</th><th scope="col">what</th></tr></thead><tbody>'
    for partner_id, district, change in changed[:MOST_CHANGES]:
        yield (
            f'<tr><th scope="row">{escape(partner_id)}/{escape(district.tenant_code)}</th>'
            f'<td class="words" data-label="when (UTC)">{escape(minute(change.at))}</td>'
            f'<td class="number" data-label="students">{district.students:,}</td>'
            f'<td data-label="what">{escape(change.in_words)}</td></tr>'
        )
    if changed:
        yield "</tbody></table>"
    if left := len(changed[MOST_CHANGES:]):
        yield f'<p class="quiet">and {left:,} more: runway-pipelines rosters list</p>'
    yield "</section>"


def _group(group: DistrictGroup) -> str:
    first = group.first
    names = first_few([district.tenant_code for district in group.districts], MOST_NAMES)
    count = f"{how_many(len(group.districts), 'district')}: " if len(group.districts) > 1 else ""
    state = first.state.value + (", pinned" if first.is_pinned else "")
    since = f" · {escape(group.since_in_words)}" if group.since_in_words else ""
    reason = f"<p>{escape(first.reason)}</p>" if first.reason else ""
    step = "".join(f'<p class="step">{_marked_up(line)}</p>' for line in first.next_step.splitlines())
    return (
        f'<div class="group {first.state.value}"><p><span class="pill {first.state.value}">{state}</span>'
        f'{count}<b>{escape(names)}</b><span class="quiet">{since}</span></p>{reason}{step}</div>'
    )


def _marked_up(text: str) -> str:
    """A next step escaped: its command as code, which one click selects, and its addresses as links."""
    found = _COMMAND.search(text)
    if found is None:
        return _linked(text)
    return f"{_linked(text[: found.start()])}<code>{escape(found[0])}</code>{_linked(text[found.end() :])}"


def _linked(text: str) -> str:
    """The text escaped, its addresses as links."""
    parts: list[str] = []
    end = 0
    for found in _ADDRESS.finditer(text):
        address = found[0].rstrip(".,;:)")
        parts += [
            escape(text[end : found.start()]),
            f'<a href="{escape(address)}" rel="noreferrer">{escape(address)}</a>',
        ]
        end = found.start() + len(address)
    return "".join([*parts, escape(text[end:])])


def _anchor(row: PartnerRow) -> str:
    return f"partner-{escape(row.partner_id)}"


def _age(age_hours: float | None) -> str:
    """Hours up to two days, then days."""
    if age_hours is None:
        return "none"
    return f"{age_hours:,.0f} h" if age_hours < 48 else f"{age_hours / 24:,.0f} days"
