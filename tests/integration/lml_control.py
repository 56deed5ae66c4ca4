"""Scripting the local LML's faults, and reading the calls it got."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from runway_pipelines.local.lml_contract import RESOLVE_PATH
from tests.servers.lml_faults import Rule

# Options of the local LML's server: it takes scripts of faults.
WITH_FAULTS = ("--wrap", "tests.servers.lml_faults:FaultyLml")


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """An answer's members, decoded by another library than the pipeline's."""
    return {name: json.loads(bytes(member)) for name, member in document.items()}


@dataclass(frozen=True)
class LmlControl:
    """The local LML at a base URL; its server keeps the rules and the recorded calls."""

    url: str

    def script(self, *rules: Rule) -> None:
        """Put these rules in force (none: no faults) and forget the calls so far."""
        # The standard library's encoder: it writes NaN, and unpaired surrogates as escapes.
        body = json.dumps([rule.model_dump(exclude_defaults=True) for rule in rules])
        httpx.post(f"{self.url}/_faults", content=body, timeout=60).raise_for_status()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Each call since `script`, as `lml_faults` records it."""
        return list(self._told()["calls"])

    @property
    def connections(self) -> int:
        """How many connections made the calls."""
        return int(self._told()["connections"])

    def _told(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/_calls", timeout=60).raise_for_status().json())

    def ask(self, document: Any, **headers: str) -> httpx.Response:
        """A call without our client."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return httpx.post(
            self.url + RESOLVE_PATH, content=body, headers={"Content-Type": "application/json"} | headers, timeout=60
        )


def asked_for(library_ids: Sequence[int], artist_name: str = "Can") -> dict[str, Any]:
    """A request about libraries with these ids."""
    return {
        "inputs": [
            {"library_id": each, "legacy_release_id": None, "artist_name": artist_name, "album_title": f"Album {each}"}
            for each in library_ids
        ]
    }
