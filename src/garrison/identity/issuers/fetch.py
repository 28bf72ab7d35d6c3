"""Fetching a small JSON document of somebody we were told to trust: bounded in time, size, parts and redirects (none).

Whoever we trust may have been taken over, or be ill: what it sends must not hold up the event loop either.

aiohttp, because it hands addresses on as they are, and because it is what later capabilities fetch with. It is not
among the packages that a guard needs, so it is asked for when the first issuer is configured.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from garrison.core.errors import SettingsError
from garrison.identity.signing.jose import unique_members

TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
MAX_PARTS = 4000
"""Objects, lists and members of one document: a hundred keys with their certificates have half as many. Without this
bound, 256 KB of `[],[],…` hold up the loop for 70 ms."""
MAX_DIGITS = 100
"""Of one number: turning digits into an integer is quadratic."""
DEFAULT_AGE_S = 300.0
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)


def check_client() -> None:
    """Raise SettingsError where the HTTP client is not installed."""
    try:
        import aiohttp  # noqa: F401 - only whether it is there
    except ImportError:
        raise SettingsError(
            [("GARRISON_FOREIGN_ISSUERS", "needs aiohttp: install Garrison with its extra, garrison[client]")]
        ) from None


async def fetch(url: str) -> tuple[bytes, float]:
    """Return the body of a document and its max-age. Raises OSError (network, time, status) and ValueError (size)."""
    status, body, cache_control = await _ask("GET", url)
    if status != 200:
        raise OSError(f"answered with {status}")
    return body, max_age_of(cache_control, default_s=DEFAULT_AGE_S)


async def post_form(url: str, form: Mapping[str, str], user: tuple[str, str]) -> tuple[int, bytes]:
    """Return status and body of a form that was posted with HTTP Basic. Raises OSError and ValueError as `fetch`."""
    basic = base64.b64encode(":".join(user).encode()).decode()
    status, body, _ = await _ask("POST", url, data=form, authorization=f"Basic {basic}")
    return status, body


async def get_with_token(url: str, token: str) -> tuple[int, bytes]:
    """Return status and body of what an access token opens (RFC 6750). Raises OSError and ValueError as `fetch`."""
    status, body, _ = await _ask("GET", url, authorization=f"Bearer {token}")
    return status, body


def read_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a body, in a few milliseconds at most. Raises ValueError, also for a member twice."""
    if body.count(b"{") + body.count(b"[") + body.count(b",") > MAX_PARTS:
        raise ValueError("more than a key set holds")
    try:
        found = json.loads(body.decode(), parse_int=_bounded_int, object_pairs_hook=unique_members)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


async def ask_once(request: Any, handler: Any) -> Any:
    """Hide a lost connection from aiohttp (a middleware): it would ask a second time, outside the budget of fetches."""
    import aiohttp

    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # there was no connection to lose
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientError(type(error).__name__) from None


async def _ask(
    method: str, url: str, *, data: Mapping[str, str] | None = None, authorization: str = ""
) -> tuple[int, bytes, str]:
    import aiohttp  # where no issuer is configured, it need not be installed

    headers = {**_HEADERS, "authorization": authorization} if authorization else _HEADERS
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                middlewares=(ask_once,),
            ) as session,
            session.request(method, url, data=data, allow_redirects=False, headers=headers) as answer,
        ):
            return answer.status, await _bounded(answer), answer.headers.get("cache-control", "")
    except (TimeoutError, aiohttp.ClientError) as error:
        raise OSError(type(error).__name__) from None


async def _bounded(answer: Any) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            raise ValueError("larger than a key set is")
    return bytes(body)


def max_age_of(cache_control: str, *, default_s: float) -> float:
    """Return the seconds of `max-age`, the default where it is not said (RFC 9111 section 5.2.2.1)."""
    found = _MAX_AGE.search(cache_control)
    return float(found[1]) if found is not None else default_s
