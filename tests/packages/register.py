"""Register the clients that the packages act as: `register.py AUDIENCE`, in the server's directory, prints JSON.

It is what `garrison client create` does, for all of them in one process: starting one takes a second or two.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from garrison.cli.identity import with_identity
from garrison.serve.wiring import Identity

WEB = "https://app.example.com/callback"
GRANTS = ("authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code")
KINDS: Mapping[str, Mapping[str, Any]] = {
    "confidential": {"grants": (*GRANTS, "client_credentials"), "redirect_uris": [WEB]},
    "public": {"grants": GRANTS, "redirect_uris": ["http://127.0.0.1/callback"], "is_public": True},
}


async def register(identity: Identity) -> Mapping[str, Mapping[str, str]]:
    """Return client id and secret by kind."""
    common: dict[str, Any] = {"audiences": sys.argv[1:], "scopes": ["tasks:read tasks:write"]}
    made = {kind: await identity.clients.create(kind, **common, **more) for kind, more in KINDS.items()}
    return {
        kind: {"client_id": one.client.id, **({} if one.client.is_public else {"client_secret": one.secret})}
        for kind, one in made.items()
    }


if __name__ == "__main__":
    print(json.dumps(with_identity(register)))
