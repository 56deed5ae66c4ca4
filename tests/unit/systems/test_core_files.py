"""A process that crashes with students' names in its memory writes none of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CRASHES = """
import os, resource
from runway_pipelines.systems.core_files import forbid_core_files
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
forbid_core_files()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
os.abort()
"""


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", CRASHES], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode < 0 and process.stdout == "0\n"
    assert list(tmp_path.iterdir()) == []
