"""`docs/settings.md` says of every setting what it is, with the default that the code has."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from garrison.serve.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\* `([A-Z_]+)` \(default ([^)]+)\): (.+)$", re.MULTILINE)
FOUND = ROW.findall((ROOT / "docs/settings.md").read_text())
ROWS = {name.lower(): (default, meaning) for name, default, meaning in FOUND}


def test_the_page_names_every_setting_once_and_no_other() -> None:
    names = [name.lower() for name, _, _ in FOUND]
    assert sorted(names) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_the_pages_default_is_the_codes(name: str) -> None:
    default, meaning = ROWS[name]
    written = re.match(r"`([^`]+)`", default)
    expected = Settings.model_fields[name].default
    if isinstance(expected, SecretStr) or expected in ("", ()):
        assert written is None, "nothing is set: what follows from that is said in words"
    else:
        assert written is not None, "a default as it would be written"
        assert getattr(Settings(**{name: written[1]}), name) == expected
    assert len(meaning) > 10


def test_the_readme_names_only_settings_that_there_are() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/oauth.md").read_text()
    named = set(re.findall(rf"{PREFIX}([A-Z_]+[A-Z])(?![A-Z_])", text))
    assert named
    named = {name for name in named if not name.startswith("TEST_")}  # what tests are told
    assert {name.lower() for name in named} <= set(Settings.model_fields)
