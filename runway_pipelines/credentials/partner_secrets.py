"""The partners' secrets, found by name and read fresh each time (credentials contract, section 1)."""

from collections.abc import Iterable
from typing import Any

import dagster as dg
import orjson
from dagster_aws.secretsmanager import SecretsManagerResource
from pydantic import PrivateAttr

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.errors import ConfigurationError, SecretMissing
from runway_pipelines.partner_tenants.keys import checked_part
from runway_pipelines.settings import load_settings
from runway_pipelines.systems.aws.secret_versions import CURRENT_STAGE, Current, Gone, Observation, SecretVersion
from runway_pipelines.systems.aws.secrets_manager import client_of, list_current, look_at, read_secret

DEVELOPMENT_VERSION = "development"
# One look takes 50 ms, and a sensor's tick may take 60 s.
MOST_LOOKS = 100


class PartnerSecrets(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The secrets with the partners' EDU connection info, uncached, so that a rotated key needs no restart."""

    secrets_manager: dg.ResourceDependency[SecretsManagerResource]
    envlabel: str | None = None
    _client: Any = PrivateAttr(default=None)

    @property
    def client(self) -> Any:
        """The Secrets Manager client, made once."""
        if self._client is None:
            self._client = client_of(self.secrets_manager)
        return self._client

    def name(self, partner_id: str) -> str:
        """The secret's name; raises `ConfigurationError` if ENVLABEL is not set."""
        return partner_secret_name(self._label(), checked_part("partner_id", partner_id))

    def read(self, partner_id: str, stage: str = CURRENT_STAGE) -> SecretVersion | None:
        """The partner's secret at a stage, or None if there is none.

        In development, ``EDU_SNOWFLAKE_*`` stands in for a missing current version. Raises `ConfigurationError` without
        ENVLABEL, and what `read_secret` raises.
        """
        name = self.name(partner_id)
        secret = read_secret(self.client, name, stage)
        return _development_secret(name) if secret is None and stage == CURRENT_STAGE else secret

    def require(self, partner_id: str) -> SecretVersion:
        """The current version; raises `SecretMissing` if there is none, and what `read` raises."""
        secret = self.read(partner_id)
        if secret is None:
            raise SecretMissing(
                expected=f"the secret {self.name(partner_id)}",
                came="no secret of that name",
                remedy="create it as docs/operations.md says, or switch off the partner's cross-year matching",
            )
        return secret

    def observe(self, partner_ids: Iterable[str]) -> dict[str, Observation]:
        """Which version of each partner's secret is current, by list calls alone.

        If a page cannot be read, the partners not listed before it are `Unreadable`, never `Gone`. Raises
        `ConfigurationError` without ENVLABEL.
        """
        prefix = partner_secret_name(self._label(), "")
        listed, failure = list_current(self.client, prefix)
        absent = failure or self._absent()
        return {partner_id: listed.get(prefix + partner_id, absent) for partner_id in partner_ids}

    def look(self, partner_id: str) -> Observation:
        """Which version of one partner's secret is current, asked directly, because a listing may lag."""
        return look_at(self.client, self.name(partner_id)) or self._absent()

    def gone(self, partner_ids: Iterable[str]) -> dict[str, str]:
        """The partners without a readable secret, with the reason; each was looked at directly.

        After `MOST_LOOKS` looks the others count as present: a failed run tells more than no run.
        """
        absent = [partner_id for partner_id, seen in self.observe(partner_ids).items() if isinstance(seen, Gone)]
        return {
            partner_id: looked.reason
            for partner_id in absent[:MOST_LOOKS]
            if isinstance(looked := self.look(partner_id), Gone)
        }

    def _absent(self) -> Observation:
        """The observation of a secret that does not exist."""
        if load_settings().development_secret() is not None:
            return Current(DEVELOPMENT_VERSION)
        return Gone("there is no such secret")

    def _label(self) -> str:
        if not self.envlabel:
            raise ConfigurationError(
                expected="the variable ENVLABEL (dev, stg or prod)",
                came="no value",
                remedy="set ENVLABEL: it keeps environments apart in one AWS account",
            )
        return self.envlabel


def _development_secret(missing_name: str) -> SecretVersion | None:
    members = load_settings().development_secret()
    if members is None:
        return None
    return SecretVersion(
        name=f"EDU_SNOWFLAKE_* (there is no {missing_name})",
        secret_version=DEVELOPMENT_VERSION,
        text=orjson.dumps(members).decode(),
    )
