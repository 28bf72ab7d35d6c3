"""A provider that people may sign in with, as configured."""

import re
from dataclasses import dataclass
from typing import Any

from garrison.identity.issuers.model import ForeignIssuer, is_fetchable

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_MEMBERS = frozenset({"name", "issuer", "client_id", "client_secret", "scopes"})


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, as configured; `name` stands in the path. `repr` shows no secret."""

    name: str
    issuer: str
    client_id: str
    client_secret: str
    scopes: str = "openid email"

    def __repr__(self) -> str:
        return f"Provider({self.name!r}, {self.issuer!r})"

    @property
    def as_issuer(self) -> ForeignIssuer:
        """The same as an issuer of tokens for us: its ID tokens are for `client_id`."""
        return ForeignIssuer(self.issuer, self.client_id)


def parse_providers(document: Any) -> tuple[Provider, ...]:
    """Return the providers of a JSON list of objects with the names above. Raises ValueError, saying where."""
    if not isinstance(document, list):
        raise ValueError("write a JSON list of providers")
    found: list[Provider] = []
    for number, one in enumerate(document, 1):
        where = f"provider {number}"
        if not isinstance(one, dict):
            raise ValueError(f"{where} is no JSON object")
        if one.keys() - _MEMBERS:
            raise ValueError(f"{where} has unknown members: {', '.join(sorted(one.keys() - _MEMBERS))}")
        for name in ("name", "issuer", "client_id", "client_secret"):
            if not isinstance(one.get(name), str) or not one[name]:
                raise ValueError(f"{where} needs {name}")
        if _NAME.fullmatch(one["name"]) is None:
            raise ValueError(f"{where}: name is 1 to 32 of a-z, 0-9 and -, since it stands in the path")
        scopes = one.get("scopes", "openid email")
        if not isinstance(scopes, str) or "openid" not in scopes.split():
            raise ValueError(f"{where}: scopes hold openid")
        if not is_fetchable(one["issuer"]):
            raise ValueError(f"{where}: addresses begin with https://, or http:// on this machine")
        found.append(Provider(**one))
    if len({one.name for one in found}) != len(found):
        raise ValueError("a provider is listed twice")
    return tuple(found)
