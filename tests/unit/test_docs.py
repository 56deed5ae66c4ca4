"""The documentation says what the code does."""

import re
from pathlib import Path

import click

from runway_pipelines.cli import data_contracts, main
from runway_pipelines.settings import settings_markdown

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_as_it_is() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_markdown()


def test_every_name_is_documented_as_it_is() -> None:
    assert (ROOT / "docs" / "data-contracts.md").read_text() == data_contracts.page()


def test_every_command_is_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name, command in main.commands.items():
        names = [f"{name} {inner}" for inner in command.commands] if isinstance(command, click.Group) else [name]
        assert [missing for missing in names if f"`{missing}`" not in changelog] == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)\b", (ROOT / "README.md").read_text())) <= targets


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
