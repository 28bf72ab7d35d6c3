"""Start and end of the app under our own server: a failure is one clear message on stderr, not a traceback.

uvicorn tells a failure in up to three lines and a traceback, of which frameworks send a second copy as the message.
What people need is what went wrong and where; the whole traceback comes with any other server (`uvicorn main:app`).
"""

import logging
import re
import sys
import traceback
from typing import Any

from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn

_FRAME = re.compile(r'^ *File "([^"]+)", line (\d+)', re.MULTILINE)


class QuietLifespan(LifespanOn):
    """uvicorn's lifespan, always demanded of the app, which says what went wrong in one message."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.logger = logging.Logger("garrison.lifespan")  # one that nobody hears
        self.logger.disabled = True
        self._told = False

    async def main(self) -> None:
        """Run the app's lifespan from its start to its end."""
        scope: Any = {
            "type": "lifespan",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.0"},
            "state": self.state,
        }
        app: Any = self.config.loaded_app
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            self.error_occurred = True
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._tell(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")
        finally:
            self.startup_event.set()
            self.shutdown_event.set()

    async def send(self, message: Any) -> None:
        """Take what the app says about itself."""
        if message["type"] in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._tell(_without_traceback(message.get("message", "")))
        await super().send(message)

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            what = "did not end in order" if self.startup_event.is_set() else "did not start"
            print(f"garrison serve: the app {what}: {reason}", file=sys.stderr)


def _without_traceback(text: str) -> str:
    """Return the last line of a traceback, and where it happened; any other text as it is."""
    if not text.startswith("Traceback (most recent call last)"):
        return text
    frames = _FRAME.findall(text)
    last = text.strip().splitlines()[-1]
    return f"{last} ({frames[-1][0]}:{frames[-1][1]})" if frames else last
