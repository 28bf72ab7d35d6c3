"""A person with a browser that runs no JavaScript: opens a link, fills in the forms of our pages, and decides."""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Self
from urllib.parse import urljoin

import httpx2

EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
_MOST_PAGES = 6


class Form(HTMLParser):
    """The form of a page: where it is sent, and its fields with what stands in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.asks = False
        """Whether it has buttons to decide by."""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = found["action"]
        elif tag == "input":
            self.fields[found["name"]] = found.get("value", "")
        elif tag == "button" and found.get("name") == "decision":
            self.asks = True


class Person:
    """Somebody with an account and a browser of their own. Used as a context manager."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._browser = httpx2.Client(timeout=20)
        self.sign_ins = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._browser.close()

    def visit(self, link: str, decision: str = "allow", **typed: str) -> str:
        """Return where the browser is sent at the end, or the last page where it is sent nowhere.

        `typed`: what is filled into fields of these names, beside address and password.
        """
        known = {"email": EMAIL, "password": PASSWORD, **typed}
        answer = self._browser.get(link)
        for _ in range(_MOST_PAGES):
            if answer.is_redirect:
                target = urljoin(str(answer.url), answer.headers["location"])
                if not target.startswith(f"{self._server}/"):
                    return target
                answer = self._browser.get(target)
                continue
            form = Form(answer.text)
            if form.action is None:
                return answer.text
            self.sign_ins += "password" in form.fields
            answer = self._browser.post(urljoin(str(answer.url), form.action), data=_filled(form, decision, known))
        raise AssertionError(f"no end after {_MOST_PAGES} pages: {answer.status_code} {answer.text[:500]}")


def _filled(form: Form, decision: str, known: Mapping[str, str]) -> dict[str, str]:
    filled = {name: value or known.get(name, "") for name, value in form.fields.items()}
    return {**filled, **({"decision": decision} if form.asks else {})}
