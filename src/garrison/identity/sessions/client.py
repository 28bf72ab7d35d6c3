"""Which program a session was begun with, in words of ours.

People recognise *Firefox on Linux* in the list of their sessions. The User-Agent header itself is not kept: anybody
can write anything into it, secrets and markup included, and it identifies more than people expect.
"""

_PROGRAMS = (
    (b"Edg", "Edge"),
    (b"OPR/", "Opera"),
    (b"Firefox/", "Firefox"),
    (b"Chrom", "Chrome"),
    (b"CriOS/", "Chrome"),
    (b"FxiOS/", "Firefox"),
    (b"Safari/", "Safari"),
    (b"okhttp", "an app"),
    (b"CFNetwork", "an app"),
    (b"Dart/", "an app"),
    (b"curl/", "curl"),
    (b"python", "Python"),
    (b"node", "Node.js"),
    (b"Go-http", "Go"),
    (b"Java/", "Java"),
)
"""In this order: every browser also claims to be the ones it descends from."""
_SYSTEMS = (
    (b"Android", "Android"),
    (b"iPhone", "iPhone"),
    (b"iPad", "iPad"),
    (b"Windows", "Windows"),
    (b"Mac OS X", "macOS"),
    (b"CrOS", "ChromeOS"),
    (b"Linux", "Linux"),
    (b"Darwin", "Apple"),
)
_READ_BYTES = 512


def describe_client(user_agent: bytes) -> str:
    """Return words such as `Firefox on Linux`, `curl`, or the empty string; never anything of the header's own."""
    text = user_agent[:_READ_BYTES]
    program = next((name for mark, name in _PROGRAMS if mark in text), "")
    system = next((name for mark, name in _SYSTEMS if mark in text), "")
    return " on ".join(word for word in (program, system) if word)
