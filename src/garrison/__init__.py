"""Garrison: what each route of a REST API demands is data, closed by default; enforced, served and proved.

    from garrison import Garrison, allow, public

    app = FastAPI()
    Garrison().protect(app)

Importing this is cheap: no database, no settings, no event loop (a test holds it).
"""

from garrison.core.errors import Denied, GarrisonError, PolicyError, SettingsError, StoreError
from garrison.core.principal import Principal
from garrison.policy.rules import Rule, allow, public, require
from garrison.policy.table import Policy
from garrison.serve.garrison import Garrison, principal

__all__ = [
    "Denied",
    "Garrison",
    "GarrisonError",
    "Policy",
    "PolicyError",
    "Principal",
    "Rule",
    "SettingsError",
    "StoreError",
    "allow",
    "principal",
    "public",
    "require",
]
