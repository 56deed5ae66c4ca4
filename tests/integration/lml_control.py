"""What a test makes the local LML do, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from runway_pipelines.local.lml_contract import RESOLVE_PATH
from runway_pipelines.local.lml_faults import Rule


@dataclass(frozen=True)
class LmlControl:
    """The local LML at a base URL. Rules and recorded calls are the server's: `script` starts anew."""

    url: str

    def script(self, *rules: Rule) -> None:
        """These faults from now on (none: no faults), and no calls yet."""
        # The standard library's encoder: it writes NaN, and unpaired surrogates as escapes.
        body = json.dumps([rule.model_dump(exclude_defaults=True) for rule in rules])
        httpx.post(f"{self.url}/_faults", content=body, timeout=60).raise_for_status()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Each call since, as `lml_server` tells it."""
        return list(self._told()["calls"])

    @property
    def connections(self) -> int:
        """How many connections the calls came over."""
        return int(self._told()["connections"])

    def _told(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/_calls", timeout=60).raise_for_status().json())

    def ask(self, document: Any, **headers: str) -> httpx.Response:
        """A call as a stranger makes it."""
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
