"""Layer 5b: response headers (OWASP Secure Headers Project, REST Security Cheat Sheet; ASVS 5.0 V3.4).

Prebuilt at start. What the app says itself wins, header by header, but for `Server` and `X-Powered-By`, which tell
an attacker what to try. Answers are `no-store` unless the route is public or the app says otherwise: a shared cache
that keeps one person's answer for the next is the oldest leak there is.
HTML gets a content security policy that pages can live with; everything else gets one under which nothing loads,
because a JSON answer opened as a document must be inert.
"""

from collections.abc import Iterable, Mapping

from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Header
from garrison.wire.header_lines import header_lines

CSP_API = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CSP_HTML = (
    b"default-src 'self'; base-uri 'self'; font-src 'self' https: data:; form-action 'self'; frame-ancestors 'none'; "
    b"img-src 'self' data:; object-src 'none'; script-src 'self'; script-src-attr 'none'; "
    b"style-src 'self' https: 'unsafe-inline'"
)
CSP_DOCS = (
    b"default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; "
    b"img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; object-src 'none'; "
    b"script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    b"font-src 'self' https://fonts.gstatic.com; worker-src 'self' blob:"
)
"""For the pages FastAPI makes itself, in development only: Swagger UI and ReDoc come from their own hosts."""

_COMMON: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_HTML: tuple[Header, ...] = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"origin-agent-cluster", b"?1"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-dns-prefetch-control", b"off"),
    (b"x-download-options", b"noopen"),
    (b"x-permitted-cross-domain-policies", b"none"),
    (b"x-xss-protection", b"0"),
)
NO_STORE: Header = (b"cache-control", b"no-store")
_DROPPED = frozenset({b"server", b"x-powered-by"})
_MOST_KNOWN = 256


class HeaderSets:
    """The prebuilt headers of one plan: `api` and `html`, each over http and over TLS.

    A set is a tuple of (name, value); `names` holds every name in any set, to find what the app said itself.
    """

    __slots__ = ("_known", "_lines", "_ours", "_sets", "names", "stored")

    def __init__(self, settings: GuardSettings, *, cached: bool, docs: bool = False) -> None:
        self.stored = cached
        """Whether a cache may keep an answer that says nothing of caches itself."""
        store = () if cached else (NO_STORE,)
        hsts = (b"strict-transport-security", f"max-age={settings.hsts_max_age_s}; includeSubDomains".encode())
        api = (*_COMMON, (b"content-security-policy", CSP_API), *store)
        html = (*_COMMON, *_HTML, (b"content-security-policy", CSP_DOCS if docs else CSP_HTML), *store)
        self._sets = ((api, html), ((*api, hsts), (*html, hsts)))
        self._lines = tuple(tuple(header_lines(headers) for headers in pair) for pair in self._sets)
        self._ours = frozenset(name for name, _ in (*api, *html, hsts)) | _DROPPED
        self.names = self._ours | {b"content-type"}
        self._known: dict[tuple[bytes | bool | None, ...], bytes] = {}
        """By names, media type and TLS: the blocks of answers that had one; few, and nobody's secret."""

    def api(self, *, secure: bool) -> tuple[Header, ...]:
        """Return the set of answers that are no documents."""
        return self._sets[secure][0]

    def lines(self, fields: Mapping[bytes, bytes], secure: bool) -> bytes | None:
        """Return our set as a block to go with the app's `fields`.

        None where those say one of its fields, too, and where names are not in lower case: then `complete` has to look.
        """
        shape = (*fields, fields.get(b"content-type"), secure)
        lines = self._known.get(shape)
        if lines is None:
            if not self._ours.isdisjoint(fields) or not b"".join(fields).islower():
                return None
            lines = self._lines[secure][fields.get(b"content-type", b"")[:9].lower() == b"text/html"]
            if len(self._known) < _MOST_KNOWN:
                self._known[shape] = lines
        return lines

    def complete(self, headers: Iterable[Header], more: Iterable[Header], *, secure: bool) -> list[Header]:
        """Return the app's `headers` and ours and `more`; the app's win, dropped ones are gone."""
        ours = self._sets[secure][0]
        names = self.names
        said: set[bytes] | None = None
        kept = list(headers)
        for name, value in kept:
            lower = name.lower()
            if lower in names:
                if lower == b"content-type":
                    if value[:9].lower() == b"text/html":
                        ours = self._sets[secure][1]
                    continue
                if said is None:
                    said = set()
                said.add(lower)
        if said is not None:
            if said & _DROPPED:
                kept = [header for header in kept if header[0].lower() not in _DROPPED]
            kept.extend(header for header in ours if header[0] not in said)
        else:
            kept.extend(ours)
        kept.extend(more)
        return kept
