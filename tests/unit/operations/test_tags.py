"""Every asset says where its runbook is, and there is one."""

import re
from pathlib import Path

from runway_pipelines.definitions import defs

ROOT = Path(__file__).parents[3]


def anchors(page: str) -> set[str]:
    """The headings of a page as a link names them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_asset_names_a_section_of_the_operations_page_that_exists() -> None:
    graph = defs().get_repository_def().asset_graph
    for key in graph.get_all_asset_keys():
        page, _, section = str(graph.get(key).metadata["runbook"]).partition("#")
        assert section in anchors(page), key
