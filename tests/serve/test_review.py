"""What a review of the environment has to say about production."""

from pathlib import Path

import pytest

from garrison.serve.review import APART, NO_PROXY, PLAIN_STORE, SIGN_UP_TELLS, review_environment, review_of
from garrison.serve.settings import Settings

PRODUCTION = {"env": "production", "secret": "s" * 40, "issuer": "https://api.example.com"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"email_verification": "optional"}, (SIGN_UP_TELLS, NO_PROXY)),
        ({"email_verification": "optional", "trusted_proxies": "10.0.0.0/8"}, (SIGN_UP_TELLS,)),
        *(
            ({"email_verification": "optional", "trusted_proxies": "10.0.0.0/8", "database_url": url}, expected)
            for url, expected in (
                ("postgresql://db/garrison", (SIGN_UP_TELLS, PLAIN_STORE, APART)),
                ("postgresql://u:p@localhost,db:5433/garrison?sslmode=require", (SIGN_UP_TELLS, PLAIN_STORE, APART)),
                ("postgresql://db/garrison?sslmode=verify-full", (SIGN_UP_TELLS, APART)),
                ("postgresql://[::1]:5432/garrison", (SIGN_UP_TELLS, APART)),
                ("postgresql:///garrison?host=/run/postgresql", (SIGN_UP_TELLS, APART)),
            )
        ),
        (
            {
                "email_verification": "optional",
                "trusted_proxies": "10.0.0.0/8",
                "database_url": "postgresql://[::1]/garrison",
                "redis_url": "redis://cache",
            },
            (SIGN_UP_TELLS,),
        ),
    ],
)
def test_what_production_lacks_is_noted_from_code_and_environment(
    tmp_path: Path, more: dict[str, str], expected: tuple[str, ...]
) -> None:
    values = {**PRODUCTION, **more}
    assert review_of(Settings(**values)).notes == expected
    environment = {f"GARRISON_{name.upper()}": value for name, value in values.items()}
    assert review_environment(environment, tmp_path).notes == expected


def test_development_has_no_notes(tmp_path: Path) -> None:
    assert review_of(Settings()).notes == review_environment({}, tmp_path).notes == ()
