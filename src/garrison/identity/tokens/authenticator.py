"""Access tokens as bearer credentials (RFC 6750, RFC 9068; ASVS 5.0 V9.2).

Warm, a token is a digest that was verified before, compared with the news like any session; cold, see `reader.py`. A
token without the right `typ` is no access token (RFC 8725 section 3.11): an ID token, or the JWT of a session's cookie.
Whose it is, its subject says: an account's names a session of it, a client's has none.
"""

from collections.abc import Awaitable, Mapping
from hashlib import sha256
from typing import Any

from garrison.core.errors import Denied
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.identity.clients.tokens import client_claimed
from garrison.identity.issuers.verifier import ForeignTokens
from garrison.identity.sessions.cache import Ask, SessionCache, SessionEntry, Token
from garrison.identity.sessions.cache import Outcome as Kept
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import TokenRefused, numeric_date
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.bearer import access_token_of, bearer_of, proved_token_of
from garrison.identity.tokens.dpop import CHALLENGE, Proofs
from garrison.identity.tokens.exchanged import exchanged, links_of
from garrison.identity.tokens.queries import ACCESS_READ
from garrison.identity.tokens.reader import Claimed, TokenReader
from garrison.identity.tokens.service import ACCESS_TYP, TokenService
from garrison.wire.call import Call

_SALT = b"access\x00"


class AccessTokenAuthenticator:
    """Reads `Authorization: Bearer` with a JWT in it; other tokens are somebody else's."""

    explicit = True

    def __init__(
        self,
        cache: SessionCache,
        keyring: Keyring,
        signing: SigningService,
        tokens: TokenService,
        foreign: ForeignTokens,
        proofs: Proofs,
        settings: IdentitySettings,
    ) -> None:
        self._cache = cache
        self._verify = cache.verify
        reader = TokenReader(
            cache, keyring, signing, typ=ACCESS_TYP, value_of=access_token_of, understand=self._claimed
        )
        self._ask_ours = reader.ask
        self._ask: Ask = self._ask_all if settings.foreign_issuers else reader.ask
        self._foreign = foreign
        self._proofs = proofs
        self._ring = keyring
        self._note = tokens.note
        self._issuer = settings.issuer
        self._audience = settings.audience or settings.issuer
        self._leeway_s = settings.leeway_s
        self._ttl_s = settings.cache_ttl_s

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the session behind the token; None for other credentials, REFUSED for one that is not valid."""
        token = bearer_of(call)
        if token:
            if token.count(b".") != 2:
                return None
            shown = sha256(_SALT + token).digest()
            outcome = self._verify(shown, call, self._ask)
            if isinstance(outcome, SessionEntry):  # first, since isinstance with Awaitable takes 0.25 µs
                if outcome.jkt or outcome.rests_on:
                    outcome = self._looked_at(shown, outcome, call)
                    return self._later(outcome) if isinstance(outcome, Awaitable) else _as_bearer(outcome)
                return outcome
            return self._later(outcome) if isinstance(outcome, Awaitable) else outcome
        token = proved_token_of(call)
        return self._with_proof(token, call) if token else None

    def _looked_at(self, shown: bytes, entry: SessionEntry, call: Call) -> "Kept | Awaitable[Kept]":
        """Ask again where what the entry rests on beside its session is not what it was (`exchanged.py`)."""
        if self._cache.rests(entry):
            return entry
        self._cache.forget_one(shown)
        return self._verify(shown, call, self._ask)

    async def _later(self, outcome: Awaitable[Outcome]) -> Outcome:
        return _as_bearer(await outcome)

    async def _with_proof(self, token: bytes, call: Call) -> Outcome:
        """A token that is bound to a key: right only with a proof of that key for this very request."""
        try:
            proof = self._proofs.read(call, token=token)
        except TokenRefused:
            raise _no_proof() from None
        shown = sha256(_SALT + token).digest()
        outcome = self._verify(shown, call, self._ask)
        if isinstance(outcome, SessionEntry):
            outcome = self._looked_at(shown, outcome, call)
        found = await outcome if isinstance(outcome, Awaitable) else outcome
        if not isinstance(found, SessionEntry) or not found.jkt or found.jkt != proof.jkt:
            raise _no_proof()
        try:
            self._proofs.spend(proof, call.now)
        except TokenRefused:
            raise _no_proof() from None
        return found

    def _ask_all(self, shown: bytes, call: Call) -> "Outcome | Awaitable[Outcome]":
        """A token that is no session's, as far as is known: of another issuer, or of ours and new here."""
        found = self._foreign.show(shown, access_token_of(call), call)
        return self._ask_ours(shown, call) if found is None else found

    def _claimed(self, claims: Mapping[str, Any], kid: str, now: float) -> Claimed | None:
        """Return what the claims mean, None where they are not those of one of our access tokens, in force now."""
        audience, subject = claims.get("aud"), claims.get("sub")
        expires_at, issued_at = numeric_date(claims.get("exp")), numeric_date(claims.get("iat"))
        not_before = numeric_date(claims["nbf"]) if "nbf" in claims else issued_at
        if claims.get("iss") == self._issuer and not (
            self._audience == audience or (isinstance(audience, list) and self._audience in audience)
        ):
            raise TokenRefused("audience")
        if (
            claims.get("iss") != self._issuer
            or expires_at is None
            or issued_at is None
            or not_before is None
            or not isinstance(subject, str)
            or now >= expires_at
            or issued_at > now + self._leeway_s
            or not_before > now + self._leeway_s
        ):
            return None
        session_id, number = claims.get("sid"), claims.get("rid")
        bound = claims.get("cnf", {})
        jkt = bound.get("jkt", "") if isinstance(bound, dict) else None
        if not isinstance(jkt, str) or ("cnf" in claims and not jkt):  # bound to something that is not known here
            return None
        links = links_of(claims)
        if links is None:
            return None
        if session_id is None:
            own = {**claims, "client_id": subject, "jti": claims.get("root")} if links else claims
            root = client_claimed(own, kid, self._issuer, is_shared=self._ring.is_shared, ttl_s=self._ttl_s, jkt=jkt)
        elif isinstance(session_id, str):
            if isinstance(number, int):
                self._note(session_id, number)
            token = Token(subject, expires_at, "token", kid, self._ring.is_shared, jkt=jkt)
            root = Claimed(ACCESS_READ, (kid, session_id), self._cache.judge_session(token))
        else:
            return None
        return root if root is None or not links else exchanged(root, links, claims)


def _no_proof() -> Denied:
    return Denied("invalid_proof", headers=(CHALLENGE,))


def _as_bearer(outcome: Outcome) -> Outcome:
    """A token that is bound to a key is no bearer token (RFC 9449 section 7.2)."""
    return REFUSED if isinstance(outcome, SessionEntry) and outcome.jkt else outcome
