"""Where `make run` says that the published files are."""

import json
import os
from pathlib import Path

import pytest

from runway_pipelines.local.session import published_files


def test_the_owner_of_the_stack_names_the_folder_that_it_writes_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"owner": os.getpid(), "environment": {}}))
    assert f"Published files: {tmp_path}/aws/s3/runway-local/__rosters." in published_files(tmp_path)


def test_beside_make_dev_the_files_are_listed_from_the_stack_that_keeps_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    (tmp_path / "environment.json").write_text(json.dumps({"owner": 1, "environment": {}}))
    said = published_files(tmp_path)
    assert "the stack that process 1 runs" in said
    assert "curl 'http://127.0.0.1:4566/runway-local?list-type=2&prefix=__rosters/'" in said
    assert f"written to {tmp_path}/aws/s3 when that process ends" in said
