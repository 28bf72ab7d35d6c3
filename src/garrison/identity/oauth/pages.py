"""The plain pages of an authorization: sign in, type a device's code, say yes or no. They work without JavaScript.

Every value goes through `escape`. The content security policy lets the form be posted here, and lets the answer send
the browser to the one address that belongs to the request: browsers hold `form-action` against redirects, too.
"""

from dataclasses import replace
from html import escape
from urllib.parse import urlsplit

from garrison.core.network import is_loopback
from garrison.wire.answer import Answer, html_answer

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:26rem;margin:10vh auto;padding:0 1rem;
overflow-wrap:anywhere}}
label,input,button{{display:block;width:100%;box-sizing:border-box;margin:.4rem 0}}
input,button{{padding:.5rem;font:inherit}}
.told{{color:#a00}}</style></head><body><h1>{title}</h1>{body}</body></html>
"""
_SIGN_IN = """<p>{asks}</p>{told}
<form method="post" action="{action}"><input type="hidden" name="request" value="{request}">
<input type="hidden" name="step" value="sign-in">
<label for="email">E-mail</label><input id="email" name="email" type="email" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Sign in</button></form>
"""
_CONSENT = """<p><strong>{name}</strong> asks to act in your name, {email}.</p>{warnings}{scopes}
<p>{where}</p>
<form method="post" action="{action}"><input type="hidden" name="request" value="{request}">
<input type="hidden" name="step" value="decide">
<button type="submit" name="decision" value="allow">Allow</button>
<button type="submit" name="decision" value="deny">Refuse</button></form>
"""
_UNREGISTERED = "<p>It is not registered here: anybody may ask like this. Allow it only if you know {name}.</p>"
_CALLS_ITSELF = "<p>It calls itself &ldquo;{name}&rdquo;. Nobody has checked that.</p>"
_ON_THIS_COMPUTER = (
    '<p class="told">What you allow goes to a program on this computer, and any program here can say that it is '
    "{name}. Allow it only if you have just begun this yourself.</p>"
)
_REFUSED = """<p><strong>{name}</strong> asked for something that it cannot have: {code}.</p>
<p>It is not registered here. Go back to it only if you come from there:
<a href="{location}" rel="noreferrer">{where}</a></p>
"""
_DEVICE = """<p>{asks}</p>{told}
<form method="post" action="{action}"><input type="hidden" name="step" value="code">
<label for="user_code">Code</label>
<input id="user_code" name="user_code" value="{user_code}" autocomplete="off" autocapitalize="characters" required
 autofocus maxlength="64"><button type="submit">Go on</button></form>
"""


def sign_in_page(
    *, asks: str, request: str, action: str, redirect_uri: str = "", told: str = "", code: str = ""
) -> Answer:
    """Return the page that asks for address and password; `told` says what was wrong before, with status 401.

    `code` says it to the log, on every page.
    """
    body = _SIGN_IN.format(asks=escape(asks), request=escape(request), action=escape(action), told=_told(told))
    return _page("Sign in", body, redirect_uri, 401 if told else 200, code)


def device_page(*, user_code: str, action: str, told: str = "", status: int = 200, code: str = "") -> Answer:
    """Return the page that asks for the code which a device shows."""
    asks = "Is this the code that your device shows?" if user_code else "Which code does your device show?"
    body = _DEVICE.format(asks=asks, user_code=escape(user_code), action=escape(action), told=_told(told))
    return _page("Your device", body, "", status, code)


def consent_page(
    *,
    name: str,
    email: str,
    scope: str,
    request: str,
    action: str,
    where: str,
    redirect_uri: str = "",
    is_registered: bool = True,
    calls_itself: str = "",
) -> Answer:
    """Return the page that asks whether the client may; `where` says where that leads.

    Nobody here vouches for one that is not registered: `name` is its host, and what it calls itself is told as such.
    """
    listed = "".join(f"<li>{escape(one)}</li>" for one in scope.split())
    body = _CONSENT.format(
        name=escape(name),
        email=escape(email),
        warnings="" if is_registered else _warnings(name, calls_itself, redirect_uri),
        scopes=f"<p>It wants:</p><ul>{listed}</ul>"
        if listed
        else "<p>It wants nothing but to know that it is you.</p>",
        where=escape(where),
        request=escape(request),
        action=escape(action),
    )
    return _page("May it?", body, redirect_uri, 200)


def error_page(code: str, text: str, status: int = 400) -> Answer:
    """Return a page that says why nobody is sent anywhere."""
    return _page("This does not work", f"<p>{escape(text)}</p><p>Go back and begin again.</p>", "", status, code)


def refused_page(*, name: str, code: str, location: str) -> Answer:
    """Return a page that says what a client asked for in vain, and where the person may go with that."""
    where = escape(urlsplit(location).netloc)
    body = _REFUSED.format(name=escape(name), code=escape(code), location=escape(location), where=where)
    return _page("This does not work", body, "", 400, code)


def done_page(text: str) -> Answer:
    """Return a page that says what was done."""
    return _page("Done", f"<p>{escape(text)}</p><p>You can close this page.</p>", "", 200)


def _warnings(name: str, calls_itself: str, redirect_uri: str) -> str:
    host = urlsplit(redirect_uri).hostname or ""
    told = _UNREGISTERED.format(name=escape(name))
    if calls_itself:
        told += _CALLS_ITSELF.format(name=escape(calls_itself))
    if host == "localhost" or is_loopback(host):
        told += _ON_THIS_COMPUTER.format(name=escape(name))
    return told


def _told(text: str) -> str:
    return f'<p class="told" role="alert">{escape(text)}</p>' if text else ""


def _page(title: str, body: str, redirect_uri: str, status: int, code: str = "") -> Answer:
    parts = urlsplit(redirect_uri)
    beyond = f" {parts.scheme}://{parts.netloc}" if redirect_uri else ""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self'{beyond}"
    )
    headers = ((b"content-security-policy", policy.encode("ascii")), (b"cache-control", b"no-store"))
    return replace(html_answer(status, _PAGE.format(title=escape(title), body=body), headers), code=code)
