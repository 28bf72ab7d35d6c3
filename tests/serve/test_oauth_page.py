"""`docs/oauth.md` leaves out no endpoint, grant or parameter of an authorization request."""

import re
from pathlib import Path

from garrison.identity.clients.model import GRANTS, SHORT_NAMES
from garrison.identity.oauth.par import _TAKEN
from garrison.serve.wiring import OWN_PATHS

PAGE = (Path(__file__).parents[2] / "docs/oauth.md").read_text()


def test_every_endpoint_is_on_the_page_and_no_other() -> None:
    own = {path for path in OWN_PATHS if path.startswith("/oauth/")}
    assert own - {"/oauth/device/verify"} == set(re.findall(r"/oauth/[a-z]+", PAGE))


def test_every_grant_is_on_the_page() -> None:
    for grant in GRANTS:
        assert f"grant_type={grant}" in PAGE, grant
    for name in SHORT_NAMES:
        assert f"`{name}`" in PAGE, name


def test_every_parameter_of_an_authorization_request_is_on_the_page() -> None:
    for name in set(_TAKEN) - {"request"}:
        assert f"`{name}`" in PAGE or f"`{name}=" in PAGE, name
