"""A client's own access token, as the guard reads it: no person and no session is behind it (RFC 9068 section 2.2).

What it may is what both the token and the client's row name, so that taking a scope from a client takes it from its
tokens. It is a delegated credential: it passes only rules that name a scope, or `credentials="client"`.
"""

from collections.abc import Mapping
from typing import Any

from garrison.core.ids import AccountId, SessionId
from garrison.core.principal import Principal
from garrison.guard.authenticate import REFUSED
from garrison.identity.clients.queries import CLIENT_READ
from garrison.identity.sessions.cache import Outcome, SessionEntry
from garrison.identity.tokens.reader import Claimed
from garrison.wire.call import Call

MOST_JTI = 60
"""Ours have 22 characters."""


def client_claimed(
    claims: Mapping[str, Any], kid: str, issuer: str, *, is_shared: bool, ttl_s: float, jkt: str = ""
) -> Claimed | None:
    """Return what a token without a session claims: to be its subject, a client. None for anything else."""
    client_id, scope, epoch, jti = claims["sub"], claims.get("scope"), claims.get("epoch"), claims.get("jti")
    if (
        not client_id.startswith("cli_")
        or claims.get("client_id") != client_id
        or not isinstance(scope, str)
        or not isinstance(epoch, int)
        or isinstance(epoch, bool)
        or not isinstance(jti, str)
    ):
        return None
    asked, expires_at, token_id = frozenset(scope.split()), claims["exp"], token_id_of(jti)

    def judge(row: tuple[Any, ...], _earlier: SessionEntry | None, call: Call) -> Outcome:
        found_id, scopes, status, current_epoch, version, created_at, key_state, revoked = row
        if status != "active" or epoch < current_epoch or revoked is not None:
            return REFUSED
        if not is_shared and key_state not in ("active", "retired"):
            return REFUSED
        principal = Principal(
            id=found_id,
            kind="client",
            issuer=issuer,
            scopes=asked & frozenset(scopes.split()),
            via="jwt",
            delegated=True,
        )
        return SessionEntry(
            principal,
            account_id=AccountId(found_id),
            account_version=version,
            session_id=SessionId(token_id),
            session_version=0,
            email="",
            created_at=created_at,
            seen_at=call.now,
            expires_at=expires_at,
            ends_at=expires_at,
            reread_at=call.boot + ttl_s,
            kid=kid,
            jkt=jkt,
        )

    return Claimed(CLIENT_READ, (kid, token_id, client_id), judge)


def token_id_of(jti: str) -> str:
    """Return what a token is called that is revoked by itself; news of it ends what was verified (RFC 7009)."""
    return "tok_" + jti[:MOST_JTI]
