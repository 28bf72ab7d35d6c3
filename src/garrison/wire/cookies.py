"""Cookies: reading one by name, and the Set-Cookie lines we write (RFC 6265bis).

Over TLS the session cookie is `__Host-garrison` (Secure, HttpOnly, SameSite=Lax, Path=/): the prefix makes browsers
refuse one set by a sibling domain or over http. Over http, in development on loopback only, it is `garrison` without
Secure, because Safari and most HTTP clients do not send Secure cookies there.
"""

from garrison.wire.answer import Header

SESSION_TLS = "__Host-garrison"
SESSION_LOOPBACK = "garrison"
DEVICE_TLS = "__Host-garrison-device"
DEVICE_LOOPBACK = "garrison-device"
FLOW_TLS = "__Host-garrison-flow"
FLOW_LOOPBACK = "garrison-flow"
REFRESH_TLS = "__Secure-garrison-refresh"
REFRESH_LOOPBACK = "garrison-refresh"
MAX_COOKIE_BYTES = 4096


def find_cookie(header: bytes, name: str) -> str | None:
    """Return the value of the cookie `name`, or None if it is absent **or sent twice with different values**.

    Two different values mean that someone else set one of them (cookie tossing): neither is believed.
    """
    wanted = name.encode()
    found: bytes | None = None
    for part in header.split(b";"):
        key, equals, value = part.strip(b" \t").partition(b"=")
        if equals and key == wanted:
            value = value.strip(b'"')
            if found is not None and found != value:
                return None
            found = value
    if found is None or len(found) > MAX_COOKIE_BYTES:
        return None
    return found.decode("latin-1")


def set_cookie(
    name: str, value: str, *, max_age_s: int, secure: bool, path: str = "/", same_site: str = "Lax"
) -> Header:
    """Return a Set-Cookie header. `value` must be URL-safe text made by us."""
    line = f"{name}={value}; Max-Age={max_age_s}; Path={path}; HttpOnly; SameSite={same_site}"
    return (b"set-cookie", (line + "; Secure" if secure else line).encode("latin-1"))


def clear_cookie(name: str, *, secure: bool, path: str = "/", same_site: str = "Lax") -> Header:
    """Return the Set-Cookie header that ends the cookie."""
    return set_cookie(name, "", max_age_s=0, secure=secure, path=path, same_site=same_site)
