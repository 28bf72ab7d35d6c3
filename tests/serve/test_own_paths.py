"""The list of our own paths, which `check` uses without starting anything, is what really is served."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from garrison import Garrison
from garrison.serve.wiring import OWN_PATHS


def test_own_paths_are_the_paths_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Garrison().protect(FastAPI(openapi_url=None))
    with TestClient(app) as client:
        document = client.get("/auth/openapi.json").json()
        unwritten = {path for path in OWN_PATHS if path.startswith(("/oauth/", "/.well-known/o"))}
        assert set(OWN_PATHS) == {*document["paths"], *unwritten, "/auth/openapi.json"}
        for path in OWN_PATHS:
            assert client.request("TRACE", path).status_code == 405, path
        assert client.get("/auth/nothing").status_code == 404


def test_a_prefix_moves_them_and_an_app_route_in_their_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from garrison import PolicyError, public

    monkeypatch.chdir(tmp_path)
    app = FastAPI(openapi_url=None)

    @app.get("/auth/session")
    @public
    async def own() -> str:
        return "the app's own"

    Garrison(prefix="/identity").protect(app)
    with TestClient(app) as client:
        assert client.get("/auth/session").json() == "the app's own"
        assert client.get("/identity/auth/session").status_code == 401
        assert client.get("/identity/health/live").json() == {"status": "live"}

    other = FastAPI(openapi_url=None)
    other.get("/auth/session")(public(lambda: "the app's own"))
    Garrison().protect(other)
    with pytest.raises(PolicyError) as refused, TestClient(other):
        pass
    assert "/auth/session" in refused.value.refusals[0]
