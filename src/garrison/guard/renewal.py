"""A renewed session cookie goes out only with an answer that is this person's alone (RFC 9111 section 7.3; CWE-524).

A cache that keeps an answer for others keeps its Set-Cookie, too: whoever asks next would be signed in as somebody
else. So an answer that is not known to be `private` or `no-store` goes without; another one will take the cookie along.
So does an answer that says itself what becomes of the cookie: after a sign-in or sign-out, what was shown is no more.
"""

from collections.abc import Iterable

from garrison.wire.answer import Header
from garrison.wire.call import Call

_NOT_FOR_OTHERS = frozenset({b"private", b"no-store"})


def offer_renewal(call: Call, said: Iterable[Header], *, stored: bool) -> None:
    """Add `call.renewed` to the answer that says these fields, if it may. `stored`: it is not `no-store` by ours."""
    if call.renewed is None:
        return
    ours = call.renewed.fields[0][1].partition(b"=")[0] + b"="
    said_how = False
    for name, value in said:
        lower = name.lower()
        if lower.endswith(b"cache-control"):  # and those for one cache alone (RFC 9213), which count more there
            if _NOT_FOR_OTHERS.isdisjoint(part.strip().lower() for part in value.split(b",")):
                return
            said_how = said_how or lower == b"cache-control"
        elif lower == b"set-cookie" and value.startswith(ours):
            return
    if said_how or not stored:
        call.added = call.added.then(call.renewed)
