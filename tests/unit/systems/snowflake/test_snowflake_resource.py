"""dagster-snowflake is imported without what nobody here needs, and nobody else finds a stand-in in its place."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTS = """
import sys
from runway_pipelines.systems.snowflake.resource import snowflake_resource

assert snowflake_resource().get_connection
left = [name for name in sys.modules if name.startswith(("snowflake.core", "snowflake.snowpark"))]
assert not left, left

from snowflake import core, snowpark
assert core.__file__ and snowpark.__file__
assert snowpark.Session.builder
"""


@pytest.mark.slow
def test_who_imports_snowpark_later_gets_it() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
