"""A partner's key, rotated for real on the embedded stack: a new pair, the account's slots, the secret."""

import json
from pathlib import Path
from typing import Any

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.local.partners import Partner
from runway_pipelines.local.seed import (
    connection_secret,
    new_private_key,
    public_half,
    register_public_keys,
    replacing,
)


def rotate_key(state_dir: Path, partner: Partner, *, secrets_client: Any, envlabel: str) -> str:
    """Rotate with no outage, as docs/operations.md says; returns the new version id.

    The new public half takes the account's second slot, the secret changes, then the old half goes. The private key's
    file, which seeding reads, is replaced first: the next start finishes an interrupted rotation.
    """
    path = state_dir / "partner_keys" / f"{partner.partner_id}.pem"
    with replacing(path, mode=0o600) as temporary:
        temporary.write_bytes(new_private_key())
    principal, public_keys = f"{partner.account}.{partner.user}".upper(), state_dir / "public_keys.json"
    register_public_keys(public_keys, {principal: public_half(path)})
    version = secrets_client.put_secret_value(
        SecretId=partner_secret_name(envlabel, partner.partner_id),
        SecretString=connection_secret(partner, path.read_text()),
    )["VersionId"]
    with replacing(public_keys) as temporary:
        registered = json.loads(public_keys.read_text())
        temporary.write_text(json.dumps({**registered, principal: [public_half(path)]}, indent=1) + "\n")
    return str(version)
