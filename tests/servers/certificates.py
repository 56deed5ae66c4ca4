"""An authority for local servers, which only its test knows; its key is never written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """``certificate`` is the file that clients pin."""

    certificate: Path
    _ca: trustme.CA = field(repr=False)

    def issue(self, *names: str) -> trustme.LeafCert:
        """A certificate for these host names and addresses."""
        return self._ca.issue_cert(*names)


def new_authority(folder: Path) -> Authority:
    """A new authority, whose certificate is written to ``folder``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority(folder / "authority.crt", trustme.CA())
    authority._ca.cert_pem.write_to_path(str(authority.certificate))
    return authority
