"""A foreign issuer: whose tokens are taken, for which audience, and what they may do here.

Nothing a foreign token says is a role or scope of ours by itself: only what the two maps name (CWE-863). A foreign
subject never equals an account, whatever it is called: the principal is (kind `foreign`, issuer, subject).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from garrison.core.network import is_loopback

ASYMMETRIC = frozenset({"RS256", "ES256", "EdDSA"})
"""What foreign tokens may be signed with; a shared secret of theirs is nobody's but theirs."""


@dataclass(frozen=True, slots=True)
class ForeignIssuer:
    """One issuer, as configured. `issuer` is compared exactly, a trailing slash included (RFC 9068 section 4)."""

    issuer: str
    audience: str
    """What its tokens must be for: us, as the issuer calls us."""
    scopes: Mapping[str, str] = field(default_factory=dict)
    """Its scope → ours."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """A value of `roles_claim` → our role."""
    roles_claim: str = "roles"
    jwks_uri: str = ""
    """Where its keys are; empty: where its discovery document says (OpenID Connect Discovery 1.0 section 4)."""

    @property
    def discovery_url(self) -> str:
        """Where its configuration is."""
        return self.issuer.rstrip("/") + "/.well-known/openid-configuration"


def parse_issuers(document: Any) -> tuple[ForeignIssuer, ...]:
    """Return the issuers of a JSON list of objects with the names above. Raises ValueError, saying where."""
    if not isinstance(document, list):
        raise ValueError("write a JSON list of issuers")
    found: list[ForeignIssuer] = []
    for number, one in enumerate(document, 1):
        where = f"issuer {number}"
        if not isinstance(one, dict):
            raise ValueError(f"{where} is no JSON object")
        unknown = one.keys() - set(ForeignIssuer.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{where} has unknown members: {', '.join(sorted(unknown))}")
        for name in ("issuer", "audience"):
            if not isinstance(one.get(name), str) or not one[name]:
                raise ValueError(f"{where} needs {name}")
        for name in ("scopes", "roles"):
            mapped = one.get(name, {})
            if not isinstance(mapped, dict) or not all(isinstance(value, str) for value in mapped.values()):
                raise ValueError(f"{where}: {name} maps their words to ours")
        for name in ("jwks_uri", "roles_claim"):
            if not isinstance(one.get(name, ""), str):
                raise ValueError(f"{where}: {name} is text")
        for url in (one["issuer"], one.get("jwks_uri", "")):
            if url and not is_fetchable(url):
                raise ValueError(f"{where}: addresses begin with https://, or http:// on this machine")
        found.append(ForeignIssuer(**one))
    if len({one.issuer for one in found}) != len(found):
        raise ValueError("an issuer is listed twice")
    return tuple(found)


def is_fetchable(url: str) -> bool:
    """Say whether keys may come from there: over TLS, or from this machine. Nothing in it needs to be escaped."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port_is_fine = parts.port != 0
    except ValueError:
        return False
    if not host or not port_is_fine or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (host == "localhost" or is_loopback(host)))
