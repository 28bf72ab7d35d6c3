"""Settings as `garrison check` sees them: every mistake, also where production's secrets are not.

What is written is checked as at start. What production needs and is not written here is named apart: CI checks an app
without the secrets that it will run with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from garrison.core.errors import SettingsError
from garrison.core.sealing import MIN_SECRET_BYTES
from garrison.serve.settings import Settings, load_settings, written_settings
from garrison.store.opening import is_postgresql, may_be_read_on_the_way

_NEEDED = {
    "GARRISON_SECRET": "-" * MIN_SECRET_BYTES,
    "GARRISON_ISSUER": "https://issuer.invalid",
    "GARRISON_EMAIL_VERIFICATION": "optional",
}
"""What production needs, and what stands in for it during the review."""

SIGN_UP_TELLS = "EMAIL_VERIFICATION=optional: a sign-in right after a sign-up tells whether an address was taken"
NO_PROXY = "TLS must end at a proxy named in GARRISON_TRUSTED_PROXIES, or every request is redirected"

APART = "without REDIS_URL each process counts limits for itself: N nodes admit N times what one does"
PLAIN_STORE = "DATABASE_URL goes to another machine without sslmode=verify-full: who is between may read and change it"


class _Notable(TypedDict):
    """What a review says of production; see `Review`."""

    tells: bool
    has_proxy: bool
    is_plain: bool
    counts_apart: bool


@dataclass(frozen=True, slots=True)
class Review:
    """What was found. `problems` are as those of SettingsError, `absent` are names; no value is among either."""

    development: bool
    production: bool
    """Neither, where the setting itself is wrong."""
    tells: bool
    """In production a sign-in right after a sign-up tells whether an address was taken."""
    problems: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    is_plain: bool = False
    """The database is on another machine, and TLS is not demanded on the way."""
    has_proxy: bool = True
    """Where production says which proxies it trusts; `garrison serve` itself speaks plain http."""

    counts_apart: bool = False
    """There may be several nodes, and nothing that they could count limits in."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of production, at start and in a review."""
        found = (
            (self.tells, SIGN_UP_TELLS),
            (not self.has_proxy, NO_PROXY),
            (self.is_plain, PLAIN_STORE),
            (self.counts_apart, APART),
        )
        return tuple(note for is_so, note in found if is_so)


def review_of(settings: Settings) -> Review:
    """Review settings that were made in code, and so checked already."""
    found = _notable(
        production=not settings.development,
        verification=settings.email_verification,
        has_proxies=bool(settings.trusted_proxies),
        database=settings.store_address,
        has_redis=bool(settings.redis_url.get_secret_value()),
    )
    return Review(settings.development, not settings.development, **found)


def review_environment(environ: Mapping[str, str], directory: Path) -> Review:
    """Review the environment and `.env` of `directory`. Opens and writes nothing else."""
    named, _ = written_settings(environ, directory)
    env = named.get("GARRISON_ENV") or "development"
    production = env == "production"
    absent = tuple(name for name in _NEEDED if not named.get(name)) if production else ()
    problems: tuple[tuple[str, str], ...] = ()
    try:
        load_settings(environ={**environ, **{name: _NEEDED[name] for name in absent}}, directory=directory)
    except SettingsError as error:
        problems = error.problems
    found = _notable(
        production=production,
        verification=named.get("GARRISON_EMAIL_VERIFICATION", ""),
        has_proxies=bool(named.get("GARRISON_TRUSTED_PROXIES")),
        database=named.get("GARRISON_DATABASE_URL", ""),
        has_redis=bool(named.get("GARRISON_REDIS_URL")),
    )
    return Review(env == "development", production, problems=problems, absent=absent, **found)


def _notable(
    *, production: bool, verification: str, has_proxies: bool, database: str | Path, has_redis: bool
) -> _Notable:
    return {
        "tells": production and verification == "optional",
        "has_proxy": not production or has_proxies,
        "is_plain": production and may_be_read_on_the_way(database),
        "counts_apart": production and is_postgresql(database) and not has_redis,
    }
