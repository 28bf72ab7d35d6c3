"""Security events: what the audit log stores.

Changes (sign-in, password, role, revocation …) are one row each, written in the transaction of the change. Refusals
are aggregated by (kind, principal or network, route, minute), so that a flood cannot fill the disk.
Nothing here ever holds a password, a usable token, or an address in clear beyond what the account row holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One security event. `kind` is dotted and stable (`session.created`); `actor` and `subject` are ids."""

    kind: str
    actor: str = ""
    subject: str = ""
    network: str = ""
    route: str = ""
    request_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
