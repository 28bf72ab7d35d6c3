"""Importing what decorates handlers is cheap: no database, no framework, no settings (a user's every start pays it)."""

import subprocess
import sys

HEAVY = ("sqlalchemy", "alembic", "sqlite3", "starlette", "fastapi", "dotenv", "uvicorn", "typer")
CHILD = f"""
import sys
from garrison import Garrison, Policy, allow, public, require
Garrison(Policy(("GET /x", public)))
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""


def test_importing_the_decorators_and_making_a_guard_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []


def test_protecting_an_app_loads_no_database_and_no_settings() -> None:
    child = (
        "import sys\nfrom fastapi import FastAPI\nfrom garrison import Garrison\nGarrison().protect(FastAPI())\n"
        "print(*[name for name in ('sqlalchemy', 'alembic', 'dotenv') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []
