"""Fetching a small JSON document of somebody we were told to trust: bounded in time, size and redirects (none).

aiohttp, because it hands addresses on as they are, and because it is what later capabilities fetch with. It is not
among the packages that a guard needs, so it is asked for when the first issuer is configured.
"""

import re
from typing import Any

from garrison.core.errors import SettingsError
from garrison.identity.issuers.remote_keys import MAX_BYTES

TIMEOUT_S = 5.0
DEFAULT_AGE_S = 300.0
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)


def check_client() -> None:
    """Raise SettingsError where the HTTP client is not installed."""
    try:
        import aiohttp  # noqa: F401 - only whether it is there
    except ImportError:
        raise SettingsError([("GARRISON_FOREIGN_ISSUERS", "needs aiohttp: pip install 'garrison[client]'")]) from None


async def fetch(url: str) -> tuple[bytes, float]:
    """Return the body and its max-age. Raises OSError (network, time, status) and ValueError (size)."""
    import aiohttp  # where no issuer is configured, it need not be installed

    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.get(url, allow_redirects=False, headers=_HEADERS) as answer,
        ):
            if answer.status != 200:
                raise OSError(f"answered with {answer.status}")
            return await _bounded(answer), _max_age(answer.headers.get("cache-control", ""))
    except (TimeoutError, aiohttp.ClientError) as error:
        raise OSError(type(error).__name__) from None


async def _bounded(answer: Any) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            raise ValueError("larger than a key set is")
    return bytes(body)


def _max_age(cache_control: str) -> float:
    found = _MAX_AGE.search(cache_control)
    return float(found[1]) if found is not None else DEFAULT_AGE_S
