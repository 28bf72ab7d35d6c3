"""Register the clients that the packages act as: `register.py AUDIENCE`, in the server's directory, prints JSON.

It is what `garrison client create` does, for all of them in one process: starting one takes a second or two.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from joserfc.jwk import ECKey

from garrison.cli.identity import with_identity
from garrison.serve.wiring import Identity

WEB = "https://app.example.com/callback"
GRANTS = ("authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code")
KINDS: Mapping[str, Mapping[str, Any]] = {
    "confidential": {"grants": (*GRANTS, "client_credentials"), "redirect_uris": [WEB]},
    "signing": {"grants": (*GRANTS, "client_credentials"), "redirect_uris": [WEB]},
    "public": {"grants": GRANTS, "redirect_uris": ["http://127.0.0.1/callback"], "is_public": True},
}


async def register(identity: Identity) -> Mapping[str, Mapping[str, Any]]:
    """Return client id, secret and private key by kind, empty and null where there is none."""
    common: dict[str, Any] = {"audiences": sys.argv[1:], "scopes": ["tasks:read tasks:write"]}
    key = ECKey.generate_key("P-256", {"alg": "ES256"}, private=True, auto_kid=True)
    keys = {"signing": json.dumps({"keys": [key.as_dict(private=False)]})}
    found = {}
    for kind, more in KINDS.items():
        made = await identity.clients.create(kind, **common, **more, jwks=keys.get(kind, ""))
        jwk = key.as_dict(private=True) if kind in keys else None
        found[kind] = {"client_id": made.client.id, "client_secret": made.secret, "jwk": jwk}
    return found


if __name__ == "__main__":
    print(json.dumps(with_identity(register)))
