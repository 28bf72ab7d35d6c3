"""The real npm package `oidc-provider` as a process, and a browser that signs in at it."""

import html
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urljoin

import httpx2

API = "https://api.example.com"
CLIENT_SECRET = "s/ecret of garrison's: 100%"
LANDING = "http://127.0.0.1/landing"
_FIELD = re.compile(r'<form[^>]* action="([^"]+)"[^>]*>\s*<input type="hidden" name="prompt" value="(\w+)"')
_MOST_STEPS = 20


@dataclass
class Provider:
    """One running provider. Ends only the process it started; stopped, its keys and sessions are gone."""

    packages: Path
    port: int
    redirect_uri: str
    in_id_token: bool = False
    """True: claims stand in the ID token; else at userinfo, as is usual."""
    process: "subprocess.Popen[bytes] | None" = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.packages / f"provider-{self.port}.log"

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "REDIRECT_URI": self.redirect_uri,
            "CLIENT_SECRET": CLIENT_SECRET,
            "API": API,
            "IN_ID_TOKEN": "1" if self.in_id_token else "",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["node", "provider.mjs"], cwd=self.packages, env=environment, stdout=log, stderr=log
            )
        end = time.monotonic() + 20
        while True:
            try:
                httpx2.get(f"{self.issuer}/jwks", timeout=5).raise_for_status()
                return
            except httpx2.TransportError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    raise RuntimeError(f"the provider is not there: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(15)

    def __enter__(self) -> "Provider":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Browser:
    """Follows redirects one by one, fills in the provider's pages, keeps cookies of all of 127.0.0.1 as browsers do."""

    def __init__(self) -> None:
        self.client = httpx2.Client(timeout=20, follow_redirects=False)

    def get(self, url: str) -> httpx2.Response:
        return self.client.get(url)

    def way(self, url: str, name: str, *, until: str) -> str:
        """Go from `url` through the provider, signing in as `name` where it asks; return where `until` begins."""
        answer = self.client.get(url)
        for _ in range(_MOST_STEPS):
            if answer.is_redirect:
                location = urljoin(str(answer.url), answer.headers["location"])
                if location.startswith(until):
                    return location
                answer = self.client.get(location)
                continue
            assert answer.status_code == 200, answer.text
            found = _FIELD.search(answer.text)
            assert found is not None, answer.text
            filled = {"prompt": found[2], **({"login": name, "password": "any"} if found[2] == "login" else {})}
            answer = self.client.post(urljoin(str(answer.url), html.unescape(found[1])), data=filled)
        raise AssertionError(f"no end after {_MOST_STEPS} steps")

    def close(self) -> None:
        self.client.close()
