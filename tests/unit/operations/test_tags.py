"""Every asset of ours says where its runbook is, and there is one."""

import re
from pathlib import Path

import dagster as dg

from runway_pipelines.definitions import defs
from runway_pipelines.operations.tags import linked, runbook

ROOT = Path(__file__).parents[3]


def anchors(page: str) -> set[str]:
    """The headings of a page as a link names them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_asset_names_a_section_of_the_operations_page_that_exists() -> None:
    graph = defs().get_repository_def().asset_graph
    for key in graph.materializable_asset_keys:
        page, _, section = str(graph.get(key).metadata["runbook"]).partition("#")
        assert section in anchors(page), key


def test_a_runbook_opens_where_it_is_known_where_the_repository_is_hosted() -> None:
    metadata = {"state": "held", **runbook("a-roster-is-held")}
    assert linked(metadata, None) == metadata
    assert linked({"state": "held"}, "https://code.example.org") == {"state": "held"}
    opens = linked(metadata, "https://code.example.org/main/")
    assert opens["runbook"] == dg.MetadataValue.url("https://code.example.org/main/docs/operations.md#a-roster-is-held")
