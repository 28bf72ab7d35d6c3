"""A token that was exchanged (RFC 8693), as the guard reads it: what it began as, cut by each client it went through.

It rests on more than its subject's session or client. `via` names each client that exchanged, newest first, with the
epoch it had and the id of the token it got: where one of these clients or tokens ends, so does everything behind it.
What the token may is what it says, its subject still may, and each of those clients still may.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from garrison.guard.authenticate import REFUSED
from garrison.identity.clients.tokens import token_id_of
from garrison.identity.sessions.cache import Outcome, SessionEntry
from garrison.identity.tokens.reader import Claimed
from garrison.wire.call import Call

MOST_LINKS = 4
"""How often a token may be exchanged on."""
_LINK = (
    "(SELECT c.scopes FROM clients c WHERE c.id = ? AND c.status = 'active' AND c.epoch <= ?),"
    " (SELECT c.version FROM clients c WHERE c.id = ?),"
    " (SELECT r.id FROM revoked_tokens r WHERE r.id = ?)"
)
_COLUMNS = 3


class Link(NamedTuple):
    """One exchange: the client, its epoch then, and the id of the token that it got."""

    client_id: str
    epoch: int
    jti: str


def links_of(claims: Mapping[str, Any]) -> tuple[Link, ...] | None:
    """Return the exchanges behind a token, newest first; None where `via` is not what we write."""
    listed = claims.get("via", [])
    if not isinstance(listed, list) or len(listed) > MOST_LINKS:
        return None
    found = []
    for one in listed:
        if not isinstance(one, list) or len(one) != len(Link._fields):
            return None
        client_id, epoch, jti = one
        if not isinstance(client_id, str) or type(epoch) is not int or not isinstance(jti, str):
            return None
        found.append(Link(client_id, epoch, jti))
    return tuple(found)


def exchanged(root: Claimed, links: tuple[Link, ...], claims: Mapping[str, Any]) -> Claimed | None:
    """Return what a token claims that began as `root`. None for claims that are not those of such a token."""
    scope = claims.get("scope")
    if not isinstance(scope, str) or claims.get("client_id") != links[0].client_id:
        return None
    asked, actor, width = frozenset(scope.split()), links[0].client_id, len(links) * _COLUMNS
    parameters: list[Any] = []
    for link in links:
        parameters += (link.client_id, link.epoch, link.client_id, token_id_of(link.jti))

    def judge(row: tuple[Any, ...], earlier: SessionEntry | None, call: Call) -> Outcome:
        scopes, rests_on = asked, []
        for at, link in enumerate(links):
            held, version, revoked = row[at * _COLUMNS : (at + 1) * _COLUMNS]
            if held is None or revoked is not None:
                return REFUSED
            scopes &= frozenset(held.split())
            rests_on += [(link.client_id, version), (token_id_of(link.jti), 0)]
        entry = root.judge(row[width:], earlier, call)
        if not isinstance(entry, SessionEntry):
            return entry
        principal = entry.principal
        entry.principal = replace(principal, scopes=scopes & principal.scopes, delegated=True, actor=actor)
        entry.rests_on = tuple(rests_on)
        return entry

    sql = f"SELECT {', '.join([_LINK] * len(links))}, {root.sql.removeprefix('SELECT ')}"
    return Claimed(sql, (*parameters, *root.parameters), judge)
