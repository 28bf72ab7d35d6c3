"""What a review of the environment has to say about production."""

from pathlib import Path

import pytest

from garrison.serve.review import NO_PROXY, SIGN_UP_TELLS, review_environment, review_of
from garrison.serve.settings import Settings

PRODUCTION = {"env": "production", "secret": "s" * 40, "issuer": "https://api.example.com"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"email_verification": "optional"}, (SIGN_UP_TELLS, NO_PROXY)),
        ({"email_verification": "optional", "trusted_proxies": "10.0.0.0/8"}, (SIGN_UP_TELLS,)),
    ],
)
def test_production_without_a_proxy_is_noted_from_code_and_environment(
    tmp_path: Path, more: dict[str, str], expected: tuple[str, ...]
) -> None:
    values = {**PRODUCTION, **more}
    assert review_of(Settings(**values)).notes == expected
    environment = {f"GARRISON_{name.upper()}": value for name, value in values.items()}
    assert review_environment(environment, tmp_path).notes == expected


def test_development_has_no_notes(tmp_path: Path) -> None:
    assert review_of(Settings()).notes == review_environment({}, tmp_path).notes == ()
