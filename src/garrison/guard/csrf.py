"""Layer 8: cross-site request forgery (Fetch Metadata, RFC 6454; ASVS 5.0 V3.5; CWE-352).

For every unsafe request that carries or may set a cookie, and for web sockets: Origin is own or allowed → pass; else
Sec-Fetch-Site is `same-origin` or `none` → pass; else either header present → 403; both absent → pass, since no
browser leaves out both. The own origin comes from `ISSUER`, not from Host, which an attacker's page may not choose
but a confused proxy may.
"""

from garrison.guard.layer import Check
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SAME = frozenset({b"same-origin", b"none"})


def csrf_check(settings: GuardSettings, *, always: bool, own_alone: bool = False) -> Check:
    """Return the check of an unsafe route; `always` where an answer may set a cookie, and for web sockets.

    `own_alone` where a page of ours posts to: an allowed origin calls the API, and decides nothing for a person.
    """
    allowed = () if own_alone else settings.allowed_origins
    scheme, _, rest = settings.issuer.partition("://")
    own = frozenset(origin.encode() for origin in (*allowed, f"{scheme}://{rest.partition('/')[0]}".lower()))

    def check_site(call: Call) -> Answer | None:
        headers = call.headers
        if not always and (b"cookie" not in headers or call.method in SAFE_METHODS):  # of a decision for any method
            return None
        origin = headers.get(b"origin")
        if origin is not None and origin in own:
            return None
        site = headers.get(b"sec-fetch-site")
        if site is None:
            return None if origin is None else problem("cross_site", call.request_id)
        return None if site in _SAME else problem("cross_site", call.request_id)

    return check_site
