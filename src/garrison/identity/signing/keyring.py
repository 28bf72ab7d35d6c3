"""The keys of one process, opened and at hand: what signs, what verifies, what the JWKS shows, and what is due.

Filled from the store, and again when the log tells of a change. What verifies here is asked for once more in the store,
in the same read as the session, when a token is seen for the first time (`tokens/authenticator.py`): a process that
cannot hear does not go on believing a key.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from garrison.core.errors import StoreError
from garrison.core.sealing import Sealer
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import JoseKey, VerifyingKey, import_public, load_private, thumbprint
from garrison.identity.signing.queries import StoredKey

_NEVER, _NOW = float("inf"), float("-inf")


def place_of(kid: str) -> str:
    """Return what a private key is sealed for."""
    return f"signing_keys/sealed/{kid}"


class Keyring:
    """What signs and what verifies. `fill` replaces everything at once."""

    __slots__ = (
        "_algorithm",
        "_lifetime_s",
        "_listeners",
        "_sealer",
        "_shown_before_s",
        "_signing",
        "due_at",
        "is_shared",
        "is_stale",
        "jwks",
        "verifying",
    )

    def __init__(self, sealer: Sealer, settings: IdentitySettings) -> None:
        self._sealer = sealer
        self._algorithm = settings.signing_algorithm
        self._lifetime_s = settings.key_lifetime_s
        self._shown_before_s = settings.shown_before_s
        self._signing: VerifyingKey | None = None
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self.verifying: dict[str, VerifyingKey] = {}
        """`kid` → a key that may have signed: active and retired ones, and the next one, which another process may have
        let begin a moment ago. Whether it has begun, the store says when a token is seen for the first time."""
        self.jwks: Mapping[str, Sequence[Mapping[str, Any]]] = {"keys": []}
        """The JSON Web Key Set: next, active and retired keys, public halves only (RFC 7517 section 5)."""
        self.is_stale = True
        """True when the log told of a change that has not been read yet."""
        self.due_at = _NOW
        """The store's time from which on something has to be done about the keys."""
        self.is_shared = self._algorithm == "HS256"
        """True where one shared secret signs and verifies, and there are no other keys at all."""
        if self.is_shared:
            key = load_private(settings.signing_secret, "HS256")
            self._signing = VerifyingKey(thumbprint(key), "HS256", key)
            self.verifying = {self._signing.kid: self._signing}
            self.is_stale, self.due_at = False, _NEVER

    @property
    def signing(self) -> VerifyingKey:
        """The active key, with its private half. Raises StoreError before there is one."""
        if self._signing is None:
            raise StoreError("store_unavailable", "there are no signing keys yet")
        return self._signing

    def fill(self, stored: Sequence[StoredKey]) -> None:
        """Take the keys as the store has them. Raises GarrisonError(`wrong_secret`) for what does not open."""
        if self.is_shared:
            return
        verifying: dict[str, VerifyingKey] = {}
        signing: VerifyingKey | None = None
        shown: list[Mapping[str, Any]] = []
        old_at = known_at = planned_at = _NEVER
        follows = False
        for row in stored:
            public = json.loads(row.public)
            shown.append({**public, "kid": row.kid, "use": "sig", "alg": row.algorithm})
            if row.state == "active":
                signing = VerifyingKey(row.kid, row.algorithm, self._open(row))
                verifying[row.kid] = signing
                old_at = (row.signs_from or 0.0) + self._lifetime_s
                continue
            known = self.verifying.get(row.kid)
            key = import_public(public, row.algorithm) if known is None else known.key
            verifying[row.kid] = VerifyingKey(row.kid, row.algorithm, key)
            if row.state == "next":
                follows = follows or row.algorithm == self._algorithm
                known_at = row.shown_at + self._shown_before_s
                planned_at = _NEVER if row.signs_from is None else row.signs_from
        self.due_at = min(planned_at, max(old_at, known_at)) if signing is not None and follows else _NOW
        gone = self.verifying.keys() - verifying.keys()
        self._signing, self.verifying, self.jwks = signing, verifying, {"keys": shown}
        self.is_stale = False
        if gone:
            for listener in self._listeners:
                listener(gone)

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call `listener(kids)` when keys verify no more."""
        self._listeners.append(listener)

    def _open(self, row: StoredKey) -> JoseKey:
        if self._signing is not None and self._signing.kid == row.kid:
            return self._signing.key
        return load_private(self._sealer.open(row.sealed, place=place_of(row.kid)), row.algorithm)
