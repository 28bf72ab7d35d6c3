"""`garrison backup`, `restore` and `restored`: nothing that was revoked after the copy opens anything afterwards."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from garrison.store.log import LEAP
from garrison.store.migrate import HEAD, current
from tests.cli.credentials import ALL, Credentials, command, document, kids, opens
from tests.process.server import PASSWORD, RAISED, ROOT, Server, sign_up
from tests.stores import needs_sqlite_file

pytestmark = needs_sqlite_file

ENVIRONMENT = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
DATABASE = Path("var/garrison.db")
VERSION = "SELECT version FROM accounts"


@pytest.fixture
def server(tmp_path: Path) -> "Server":
    return Server(tmp_path, environment=ENVIRONMENT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a database of one account, and a copy of it."""
    done = command(tmp_path, "account", "create", "ada@example.com", "--password-stdin", stdin=PASSWORD + "\n")
    assert done.exit_code == 0, done.stderr
    assert command(tmp_path, "backup", "copy.db").exit_code == 0
    return tmp_path


def until_gone(server: Server, kid: str) -> None:
    end = time.monotonic() + 5
    while kid in kids(server):
        assert time.monotonic() < end
        time.sleep(0.01)


def names(directory: Path) -> set[str]:
    return {path.name for path in (*directory.iterdir(), *(directory / "var").iterdir())}


def scalar(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchone()[0]


def test_a_copy_is_whole_private_and_overwrites_nothing(directory: Path) -> None:
    copy = directory / "copy.db"
    before = copy.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert scalar(copy, "PRAGMA integrity_check") == "ok"
    assert scalar(copy, "SELECT count(*) FROM accounts") == 1
    again = command(directory, "backup", "copy.db")
    assert (again.exit_code, "overwrites nothing" in again.stderr) == (2, True)
    (directory / "link.db").symlink_to("nowhere.db")
    through = command(directory, "backup", "link.db")
    assert (through.exit_code, "overwrites nothing" in through.stderr) == (2, True)
    (directory / "cut.db.partial").touch()
    cut = command(directory, "backup", "cut.db")
    assert (cut.exit_code, "was cut off" in cut.stderr) == (2, True)
    nowhere = command(directory, "backup", "no/copy.db")
    assert (nowhere.exit_code, "no directory" in nowhere.stderr) == (2, True)
    assert copy.read_bytes() == before
    assert names(directory) == {"copy.db", "cut.db.partial", "link.db", "var", "garrison.db", "secret"}
    done = document_of(directory, "backup", "other.db")
    assert done["schema"] == HEAD
    assert done["bytes"] == (directory / "other.db").stat().st_size


def document_of(directory: Path, *arguments: str) -> dict[str, object]:
    done = command(directory, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_what_was_deleted_is_not_in_a_copy(directory: Path) -> None:
    canary = "deleted-canary-0123456789"
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        connection.execute("INSERT INTO leases VALUES (?, 'x', 1.0)", (canary,))
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        connection.execute("PRAGMA secure_delete=OFF")  # some builds have it on
        connection.execute("DELETE FROM leases")
    assert canary.encode() in (directory / DATABASE).read_bytes(), "or this shows nothing"
    assert command(directory, "backup", "later.db").exit_code == 0
    assert canary.encode() not in (directory / "later.db").read_bytes()


def test_a_database_that_is_damaged_or_none_of_ours_gives_no_copy(directory: Path) -> None:
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(
            "INSERT INTO identities (issuer, subject, account_id, created_at) VALUES ('i', 's', 'acc_nobody', 1.0)"
        )
    damaged = command(directory, "backup", "damaged.db")
    assert (damaged.exit_code, "is damaged" in damaged.stderr) == (1, True)
    (directory / DATABASE).unlink()
    gone = command(directory, "backup", "gone.db")
    assert (gone.exit_code, "has no tables" in gone.stderr) == (1, True)
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        connection.execute("CREATE TABLE other (x)")
    other = command(directory, "backup", "other.db")
    assert (other.exit_code, "has no tables" in other.stderr) == (1, True)
    assert not {"damaged.db", "gone.db", "other.db"} & names(directory)


def test_nothing_that_was_revoked_after_the_copy_opens_anything_after_the_restore(server: Server) -> None:
    database = server.directory / DATABASE
    with server:
        held = Credentials.of(server, "ada")
        assert held.alive(server) == ALL
        before = kids(server)
        copied = document(server, "backup", "copy.db")
        for _ in range(2):  # epochs and versions grow beyond those of the copy
            document(server, "client", "disable", held.client["client_id"])
            document(server, "client", "enable", held.client["client_id"])
        held.client_token = held.ask_as_client(server) or ""
        document(server, "key", "revoke", held.key["id"])
        document(server, "account", "set-role", held.email, "admin")
        out = httpx2.post(f"{server.url}/auth/sign-out-everywhere", headers={"authorization": f"Bearer {held.access}"})
        assert out.status_code == 204
        document(server, "keys", "revoke", before[0])
        until_gone(server, before[0])  # or the next token is signed by it, and as dead
        held.sign_in(server)
        running = command(server.directory, "restore", "copy.db", "--replace")
        assert (running.exit_code, "stop the server" in running.stderr) == (1, True)
        assert opens(server, {"authorization": f"Bearer {held.access}"}), "it goes on as if nothing had been"
    position, version = scalar(database, "SELECT max(position) FROM changes"), scalar(database, VERSION)
    done = document(server, "restore", "copy.db", "--replace")
    assert done["as_of"] == copied["as_of"]
    assert (done["accounts"], done["sessions_ended"]) == (1, 2)
    assert sorted(done["signing_keys_revoked"]) == sorted(before)
    assert done["api_keys_ended"] == [held.key["id"]]
    assert done["clients_disabled"] == [held.client["client_id"]]
    assert scalar(database, f"SELECT min(position) FROM changes WHERE position > {position}") > LEAP
    assert scalar(database, VERSION) > version
    with closing(sqlite3.connect(database)) as connection:
        states = connection.execute("SELECT state, count(*) FROM signing_keys GROUP BY state").fetchall()
    assert dict(states) == {"revoked": 2, "active": 1, "next": 1}, "a key that was stolen signs nothing that is taken"
    with server:
        assert held.alive(server) == frozenset()
        assert not set(kids(server)) & set(before)
        document(server, "client", "enable", held.client["client_id"])
        assert held.alive(server) == {"client"}, "its tokens stay dead"
        held.sign_in(server)
        assert held.alive(server) == {"client", "access", "refresh"}


def test_what_is_kept_was_said_to_be_and_tokens_of_clients_end_all_the_same(tmp_path: Path) -> None:
    """With a shared secret that signs there are no keys to revoke: only epochs end a client's token."""
    shared = {"GARRISON_SIGNING_ALGORITHM": "HS256", "GARRISON_SIGNING_SECRET": "a shared secret of 32 bytes or more"}
    server = Server(tmp_path, environment={**ENVIRONMENT, **shared})
    with server:
        held = Credentials.of(server, "ada")
        document(server, "backup", "copy.db")
        for _ in range(3):
            document(server, "client", "disable", held.client["client_id"])
            document(server, "client", "enable", held.client["client_id"])
        held.client_token = held.ask_as_client(server) or ""  # of epoch 7; that of the copy was 1
        assert opens(server, {"authorization": f"Bearer {held.client_token}"})
    done = document(server, "restore", "copy.db", "--replace", "--keep-keys", "--keep-clients")
    assert (done["api_keys_ended"], done["clients_disabled"]) == ([], [])
    with server:
        assert held.alive(server) == {"client", "key"}


def test_a_server_that_runs_hears_of_it_and_the_log_of_one_that_was_killed_is_not_replayed(server: Server) -> None:
    with server:
        held = Credentials.of(server, "ada")
        assert held.alive(server) == ALL
        done = document(server, "restored")
        assert (done["accounts"], done["sessions_ended"]) == (1, 2)
        end = time.monotonic() + 2.0
        while opens(server, {"authorization": f"Bearer {held.access}"}):
            assert time.monotonic() < end
        assert held.alive(server) == frozenset()
        document(server, "backup", "copy.db")
        sign_up(server.client(), "bob@example.com")  # and no command after it, which would empty the log as it ends
        server.kill()
    assert (server.directory / "var/garrison.db-wal").stat().st_size > 0, "or this shows nothing"
    aside = Path(document(server, "restore", "copy.db", "--replace")["replaced"])
    assert scalar(server.directory / DATABASE, "SELECT count(*) FROM accounts") == 1
    assert scalar(aside, "SELECT count(*) FROM accounts") == 2, "what was there is kept, with its last commits"


def test_a_log_without_its_database_is_not_replayed_either(directory: Path) -> None:
    code = "import sqlite3, os; c = sqlite3.connect('var/garrison.db', isolation_level=None)\n"
    code += "c.execute('UPDATE accounts SET roles = ?', ('admin',)); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], cwd=directory, check=True)
    assert (directory / "var/garrison.db-wal").stat().st_size > 0, "or this shows nothing"
    (directory / DATABASE).unlink()
    refused = command(directory, "restore", "copy.db")
    assert (refused.exit_code, "--replace" in refused.stderr) == (2, True)
    assert command(directory, "restore", "copy.db", "--replace").exit_code == 0
    assert scalar(directory / DATABASE, "SELECT roles FROM accounts") == ""


def test_a_restore_without_a_database_makes_one(directory: Path) -> None:
    (directory / DATABASE).unlink()
    done = command(directory, "restore", "copy.db")
    assert done.exit_code == 0, done.stderr
    assert "people sign in again" in done.stdout
    assert "roles taken away" in done.stderr
    assert stat.S_IMODE((directory / DATABASE).stat().st_mode) == 0o600
    assert names(directory) == {"copy.db", "var", "garrison.db", "secret"}


def test_what_cannot_be_restored_changes_nothing(directory: Path) -> None:
    database = (directory / DATABASE).read_bytes()
    copy = (directory / "copy.db").read_bytes()
    (directory / "text.db").write_text("no database at all " * 1000)
    half = bytearray(copy)
    half[len(half) // 2 :] = os.urandom(len(half) - len(half) // 2)
    (directory / "half.db").write_bytes(half)
    (directory / "newer.db").write_bytes(copy)
    with closing(sqlite3.connect(directory / "newer.db")) as connection, connection:
        connection.execute("UPDATE garrison_version SET version_num = '9999'")
    cases: tuple[tuple[str, str, int, dict[str, str]], ...] = (
        ("text.db", "damaged", 1, {}),
        ("half.db", "damaged", 1, {}),
        ("newer.db", "newer version", 1, {}),
        ("nowhere.db", "no file", 2, {}),
        (str(DATABASE), "in use", 2, {}),
        ("copy.db", "another SECRET", 1, {"GARRISON_SECRET": "another-secret-of-32-bytes-or-more-0123"}),
    )
    for name, says, code, environment in cases:
        done = command(directory, "restore", name, "--replace", environment=environment)
        assert (done.exit_code, says in done.stderr) == (code, True), (name, done.stderr)
        assert (directory / DATABASE).read_bytes() == database, name
        assert "garrison.db.restoring" not in names(directory), name
    refused = command(directory, "restore", "copy.db")
    assert (refused.exit_code, "--replace" in refused.stderr) == (2, True)
    assert (directory / DATABASE).read_bytes() == database


def test_a_restore_makes_no_secret_for_a_copy_that_has_one(directory: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = command(elsewhere, "restore", str(directory / "copy.db"))
    assert (done.exit_code, "var/secret" in done.stderr) == (2, True)
    assert list(elsewhere.iterdir()) == []


def test_any_other_process_that_has_it_open_is_in_the_way(directory: Path) -> None:
    code = "import sqlite3, sys; c = sqlite3.connect('var/garrison.db'); c.execute('SELECT 1 FROM leases').fetchall();"
    code += "print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        done = command(directory, "restore", "copy.db", "--replace")
        assert (done.exit_code, "stop the server" in done.stderr) == (1, True)
        other.communicate()
    assert command(directory, "restore", "copy.db", "--replace").exit_code == 0


def test_a_database_that_is_damaged_beyond_opening_is_replaced_and_kept(directory: Path) -> None:
    (directory / DATABASE).write_bytes(b"rubbish " * 5000)
    done = document_of(directory, "restore", "copy.db", "--replace")
    assert Path(str(done["replaced"])).read_bytes() == b"rubbish " * 5000
    assert scalar(directory / DATABASE, "SELECT count(*) FROM accounts") == 1


def test_a_copy_of_an_older_version_is_brought_up_to_date(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from garrison.store import migrate

    older = directory / "older.db"
    monkeypatch.setattr(migrate, "HEAD", "0012")
    migrate.upgrade(older)
    monkeypatch.undo()
    assert current(older) == "0012"
    assert document_of(directory, "restore", "older.db", "--replace")["accounts"] == 0
    assert current(directory / DATABASE) == HEAD


def test_a_restore_is_in_the_audit_log(directory: Path) -> None:
    document_of(directory, "restore", "copy.db", "--replace")
    data = scalar(directory / DATABASE, "SELECT data FROM events WHERE kind = 'database.restored'")
    assert json.loads(str(data))["accounts"] == 1


def test_the_page_names_commands_and_options_that_are_there(directory: Path) -> None:
    page = (ROOT / "docs/backup.md").read_text()
    named = set(re.findall(r"garrison (backup|restored|restore|move|migrate|client enable)\b", page))
    assert named == {"backup", "restored", "restore", "move", "migrate", "client enable"}
    shown = {name: command(directory, *name.split(), "--help").stdout for name in named}
    for name, options in (("restore", ("--replace", "--keep-keys", "--keep-clients")), ("move", ("--undo",))):
        assert all(option in page and option in shown[name] for option in options), name
    assert all(option in shown["restored"] for option in ("--keep-keys", "--keep-clients"))
