"""The command line starts at once, and with an interpreter as with the script."""

import subprocess
import sys

import pytest

SLOW = {"boto3", "dagster", "fakesnow", "httpx", "pandas", "psycopg", "pyarrow", "pydantic", "starlette"}


def test_help_imports_nothing_that_is_slow() -> None:
    program = "import sys, runway_pipelines.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    imported = set(done.stdout.split())
    assert "click" in imported
    # Of the connector: its namespace is made by the interpreter's start already.
    assert (SLOW | {"snowflake.connector"}) & imported == set()


@pytest.mark.parametrize("command", [[], ["serve"], ["rosters", "show"]])
def test_the_package_can_be_run_as_the_script_is(command: list[str]) -> None:
    arguments = [sys.executable, "-m", "runway_pipelines.cli", *command, "--help"]
    said = subprocess.run(arguments, capture_output=True, check=True, text=True).stdout
    assert said.startswith(" ".join(["Usage: python -m runway_pipelines.cli", *command]))
