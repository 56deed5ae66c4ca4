"""What the Dockerfile promises, as far as reading it shows; `make image-check` builds the image and tries it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+==\S+)", (ROOT / lock).read_text(), re.MULTILINE))


def test_every_stage_stands_on_the_one_pinned_base() -> None:
    assert instructions("FROM") == ["${BASE} AS dependencies", "${BASE} AS wheel", "${BASE}"]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", instructions("ARG")[0])


def test_nothing_is_downloaded_but_packages_with_known_hashes() -> None:
    for step in instructions("RUN"):
        assert not re.search(r"\b(curl|wget|git|apt|apt-get|ADD)\b", step)
        if "pip" in step and "--no-index" not in step:
            assert "--require-hashes --no-deps" in " ".join(step.split())


def test_the_dependencies_layer_depends_on_the_lock_alone() -> None:
    stage = DOCKERFILE.split("AS dependencies")[1].split("FROM")[0]
    assert re.findall(r"^COPY +(.*)$", stage, re.MULTILINE) == ["requirements.lock ./"]


def test_the_wheel_is_built_with_the_versions_of_development() -> None:
    assert pins("requirements-build.lock") <= pins("requirements-dev.lock")
    assert any(pin.startswith("hatchling==") for pin in pins("requirements-build.lock"))


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    last = DOCKERFILE.split("FROM")[-1]
    assert re.findall(r"^USER +(.*)$", last, re.MULTILINE) == ["10001:10001"]


def test_what_is_copied_reaches_the_builder_and_nothing_else_does() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = {
        source.split("/")[0] for step in instructions("COPY") if "--from" not in step for source in step.split()[:-1]
    }
    assert copied == let_in


def test_the_image_has_what_the_stream_and_the_stores_need() -> None:
    """The lock is made with these extras (Makefile, lock); without `api` the stream's task would end at once."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.match(r"[\w-]+", one)[0].lower() for extra in ("api", "mongo", "redis") for one in extras[extra]}  # type: ignore[index]
    assert wanted <= {pin.split("==")[0] for pin in pins("requirements.lock")}
