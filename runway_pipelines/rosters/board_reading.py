"""The board as it is now: the registry and each partner's index are read, one object for each partner."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from hashlib import sha256
from typing import TypeVar

from runway_pipelines.credentials.key_hygiene import NO_KEY_FACTS, KeyFacts
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import SHA256_SHOWN
from runway_pipelines.partner_tenants.registry import Registry, RosterPartner
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.board import Board, PartnerState, make_board
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.manifest import index_key
from runway_pipelines.rosters.publication import READERS
from runway_pipelines.rosters.services import RosterPolicy, RosterServices
from runway_pipelines.systems.aws.object_store import ObjectStore

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_board(
    store: ObjectStore,
    registry: Registry,
    keys: Mapping[str, KeyFacts],
    policy: RosterPolicy,
    now: datetime,
    advice: Advice,
) -> Board:
    """The board of the registry's partners. A partner whose index cannot be read is on it, with the reason."""
    states = _of_each(store, registry.partners.values(), lambda partner: _state_of(store, partner, keys))
    return make_board(states, now, policy.most_roster_age, key_warning_days=policy.key_age_warning_days, advice=advice)


def versions_of_indexes(rosters: RosterServices) -> str:
    """A digest of the current versions of the partners' indexes; empty if they cannot be seen now.

    It shows a decision on the command line, which changes an index without a run. It takes a HEAD for each partner.
    """
    try:
        keys = [index_key(partner_id) for partner_id in sorted(rosters.registry().partners)]
        etags = _of_each(rosters.store, keys, rosters.store.etag)
    except RunwayError:
        return ""
    return sha256(json.dumps(etags).encode()).hexdigest()[:SHA256_SHOWN]


def _of_each(store: ObjectStore, items: Iterable[Item], read: Callable[[Item], Result]) -> list[Result]:
    """What ``read`` returns for each item; several are read at a time."""
    _ = store.client  # made before there are threads
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="indexes") as executor:
        return list(executor.map(read, items))


def _state_of(store: ObjectStore, partner: RosterPartner, keys: Mapping[str, KeyFacts]) -> PartnerState:
    of_keys = keys.get(partner.partner_id, NO_KEY_FACTS)
    try:
        entries = PartnerIndex.read(store, partner).tenants
    except RunwayError as error:
        return _unreadable(partner, of_keys, f"{error.came}: {error.remedy}")
    except Exception as error:  # noqa: BLE001 - the other partners go on; the error's text may quote anything
        return _unreadable(partner, of_keys, f"an unexpected {type(error).__name__}: report it")
    return PartnerState(partner.partner_id, partner.name, entries, of_keys, partner.published_years)


def _unreadable(partner: RosterPartner, keys: KeyFacts, trouble: str) -> PartnerState:
    return PartnerState(partner.partner_id, partner.name, (), keys, partner.published_years, trouble=trouble)
