"""A PostgreSQL database that pg_restore put back says so at each start, until somebody says what becomes of it."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from garrison.store import home
from garrison.store.opening import write_once
from tests.cli.credentials import ALL, Credentials, command, document
from tests.process.server import RAISED, Server
from tests.store.postgresql import _ask, database, server

ENVIRONMENT = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1", "GARRISON_SECRET": "of this copy " * 4}
SAYS = "database_copied"


@pytest.fixture
def first() -> Iterator[str]:
    with database() as url:
        yield url


def copied(of: str, to: str) -> None:
    """Copy a database as docs/backup.md says."""
    if shutil.which("pg_dump") is None:
        pytest.skip("no pg_dump here: make system")
    dump = subprocess.run(["pg_dump", "--format=custom", of], capture_output=True, check=True).stdout
    restore = ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={to}"]
    subprocess.run(restore, input=dump, capture_output=True, check=True)


def begun(directory: Path, url: str, *, port: int = 0) -> Server:
    return Server(directory, environment={**ENVIRONMENT, "GARRISON_DATABASE_URL": url}, port=port)


def said(node: Server) -> int:
    return node.log.read_text().count(SAYS)


def test_a_restore_that_was_not_told_of_is_noticed_at_each_start(tmp_path: Path, first: str) -> None:
    with begun(tmp_path, first) as node:
        held = Credentials.of(node, "ada")
    with database() as second:
        copied(first, second)
        with begun(tmp_path, first):
            assert said(node) == 0, "nobody copied this one"
        for times in (1, 2):
            with begun(tmp_path, second, port=node.port) as there:
                assert held.alive(there) == ALL, "which is why it is said"
            assert said(node) == times
        assert document(there, "restored")["accounts"] == 1
        with begun(tmp_path, second, port=node.port) as there:
            assert held.alive(there) == frozenset()
        assert said(node) == 2


def test_a_copy_that_lacks_nothing_ends_nothing(tmp_path: Path, first: str) -> None:
    with begun(tmp_path, first) as node:
        held = Credentials.of(node, "ada")
    with database() as second:
        copied(first, second)
        environment = {**ENVIRONMENT, "GARRISON_DATABASE_URL": second}
        done = command(tmp_path, "restored", "--complete", environment=environment)
        assert (done.exit_code, "nothing was ended" in done.stdout) == (0, True), done.stderr
        assert json.loads(command(tmp_path, "restored", "--complete", "--json", environment=environment).stdout) == {
            "complete": True
        }
        with begun(tmp_path, second, port=node.port) as there:
            assert held.alive(there) == ALL
        assert said(node) == 0


@pytest.mark.parametrize("code", ["0A000", "42501"])
def test_a_server_that_does_not_say_who_it_is_starts_all_the_same(first: str, code: str) -> None:
    raises = f"BEGIN RAISE 'no' USING ERRCODE = '{code}'; END"
    for statement in (
        "CREATE SCHEMA shadow",
        f"CREATE FUNCTION shadow.pg_control_system() RETURNS TABLE (system_identifier bigint) AS $$ {raises} $$"
        " LANGUAGE plpgsql",
    ):
        asyncio.run(_ask(first, statement))

    def ask(connection: Connection) -> object:
        connection.execute(text("SET LOCAL search_path = shadow, pg_catalog, public"))
        assert home.is_at_home(connection)
        return connection.execute(text("SELECT 1")).scalar_one()

    assert write_once(first, ask) == 1, "the transaction goes on"


def test_a_role_that_may_not_ask_is_told_nothing(first: str) -> None:
    asyncio.run(_ask(first, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"))
    role = first.rpartition("/")[2]
    try:
        asyncio.run(_ask(first, f"CREATE ROLE {role} LOGIN"))
        as_role = first.replace("postgres@", f"{role}@")

        def ask(connection: Connection) -> object:
            assert home.is_at_home(connection)
            return connection.execute(text("SELECT 1")).scalar_one()

        assert write_once(as_role, ask) == 1, "the transaction goes on"
    finally:
        asyncio.run(_ask(f"{server()}/postgres", f"DROP ROLE IF EXISTS {role}"))
