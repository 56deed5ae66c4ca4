"""The documentation says what the code does, and its links, files and commands exist."""

import re
from pathlib import Path

import click
import pytest

from runway_pipelines.cli import data_contracts
from runway_pipelines.cli.app import main
from runway_pipelines.settings import settings_markdown

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runway_pipelines"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
CODE = sorted(path for folder in ("runway_pipelines", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CONTRACTS = ROOT / "docs" / "contracts"
CONTRACT_PAGES = {
    "rosters": "rosters.md",
    "cross-year roster": "rosters.md",
    "credentials": "credentials.md",
    "library identity": "library_identity.md",
    "student resolution": "student_resolution.md",
}
CITATION = re.compile(
    r"(?:(rosters|cross-year roster|credentials|library identity|student resolution) )?"
    r"contract(?:'s)?,? \(?(library identity, )?"
    r"sections? (\d(?:(?:, | and )\d)*)"
)
FEWEST_CITATIONS = 25
TYPED_IN_THE_UI = {"acme/"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    """A page without its fenced blocks, in which nothing is a link or a heading."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The page's headings as GitHub names them in links; a heading that comes again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-"))
    return {
        anchor if not (before := found[:i].count(anchor)) else f"{anchor}-{before}" for i, anchor in enumerate(found)
    }


def citations(path: Path) -> list[tuple[str, str]]:
    """(page, section) of each contract that a file cites. Without a name it is that of the file's own domain."""
    text = re.sub(r"\s*\n\s*(?:# )?", " ", path.read_text())
    cited = []
    for name, inner, numbers in CITATION.findall(text):
        page = CONTRACT_PAGES.get(name or inner.removesuffix(", ") or own_contract(path))
        assert page is not None
        cited += [(page, number) for number in re.findall(r"\d", numbers)]
    return cited


def own_contract(path: Path) -> str:
    place = named(path)
    if "students/" in place:
        return "student resolution"
    return "library identity" if "identity" in place or "lml" in place else "rosters"


def exists(path: str) -> bool:
    """From the root or from the package."""
    return (ROOT / path).exists() or (PACKAGE / path).exists()


def test_every_setting_is_documented_as_it_is() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_markdown()


def test_every_name_is_documented_as_it_is() -> None:
    assert (ROOT / "docs" / "data-contracts.md").read_text() == data_contracts.page()


def test_every_command_is_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name, command in main.commands.items():
        names = [f"{name} {inner}" for inner in command.commands] if isinstance(command, click.Group) else [name]
        assert [missing for missing in names if f"`{missing}`" not in changelog] == []


def test_the_changelog_has_the_released_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert re.search(
        rf"^## {re.escape(version[1])} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    typed = [
        line for block in re.findall(r"^```$(.*?)^```$", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    said = re.findall(r"`make ([a-z-]+)`", text) + re.findall(r"^make ([a-z-]+)", "\n".join(typed), re.MULTILINE)
    assert sorted(set(said) - targets) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """By its path from the root or from the package, or by its name alone."""
    known = {path.name for path in [*CODE, *PAGES, *ROOT.glob("*"), *(ROOT / "deploy").rglob("*")]}
    paths = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|lock|sh|sql|toml))`", page.read_text())
    missing = [path for path in paths if path not in known and not exists(path)]
    assert missing == []


def test_every_function_that_the_readme_names_is_in_its_file() -> None:
    named_functions = re.findall(r"`([\w/]+\.py)`, `(\w+)`", (ROOT / "README.md").read_text())
    assert named_functions
    for path, function in named_functions:
        assert f"def {function}(" in (PACKAGE / path).read_text()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_folder_that_a_page_names_exists(page: Path) -> None:
    folders = re.findall(r"`([a-z][a-z_]*/(?:[a-z_]+/)*)`", page.read_text())
    assert [folder for folder in folders if folder not in TYPED_IN_THE_UI and not exists(folder)] == []


def test_every_page_that_the_code_names_exists() -> None:
    missing = [
        f"{named(path)}: {page}"
        for path in CODE
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())
        if not (ROOT / page).exists()
    ]
    assert missing == []


def test_every_contract_section_that_the_code_cites_exists() -> None:
    sections = {
        page: re.findall(r"^## (\d)\. ", (CONTRACTS / page).read_text(), re.MULTILINE)
        for page in CONTRACT_PAGES.values()
    }
    cited = [(named(path), page, number) for path in CODE for page, number in citations(path)]
    assert [each for each in cited if each[2] not in sections[each[1]]] == []
    assert len(cited) >= FEWEST_CITATIONS
