"""T13: a copy taken under load is whole, and a prefix of what was acknowledged.

One writer signs people up, one after another, and notes each that was acknowledged, in order; others sign in and out
beside it. What a copy holds must be an unbroken beginning of that ledger: nobody in it without everybody before,
everybody acknowledged before the copy began, and nobody asked for after it was done.

    BACKUP_N=200 .venv/bin/pytest tests/fault/test_backup.py        the long run
"""

import os
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx2

from garrison.store.backup import back_up
from tests.process.server import PASSWORD, RAISED, Server, sign_in, sign_up
from tests.stores import needs_sqlite_file

pytestmark = needs_sqlite_file

COPIES = int(os.environ.get("BACKUP_N", "4"))
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}


def emails_of(copy: Path) -> set[str]:
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {email for (email,) in connection.execute("SELECT email FROM accounts WHERE email LIKE 'n%'")}


def test_a_copy_under_load_is_a_prefix_of_what_was_acknowledged(tmp_path: Path) -> None:
    asked: list[str] = []
    acknowledged: list[str] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def live(server: Server, *, writes_ledger: bool) -> None:
        try:
            with httpx2.Client(base_url=server.url, timeout=30) as client:
                while not over.is_set():
                    if writes_ledger:
                        asked.append(f"n{len(asked)}@example.com")
                        sign_up(client, asked[-1])
                        acknowledged.append(asked[-1])
                    else:
                        sign_in(client, "busy@example.com", PASSWORD)
                        assert client.post("/auth/sign-out", headers={"origin": server.url}).status_code == 204
        except BaseException as error:
            failures.append(error)

    with Server(tmp_path, environment=CHEAP, app=None) as server:
        sign_up(server.client(), "busy@example.com")
        threads = [threading.Thread(target=live, args=(server,), kwargs={"writes_ledger": n == 0}) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            wait_for(acknowledged, 3)
            slowest_s = 0.0
            for number in range(COPIES):
                copy = tmp_path / f"copy-{number}.db"
                least, started = len(acknowledged), time.monotonic()
                back_up(tmp_path / "var/garrison.db", copy, lambda _share: None)
                slowest_s, most = max(slowest_s, time.monotonic() - started), len(asked)
                found = len(emails_of(copy))
                assert emails_of(copy) == set(asked[:found]), "a hole in the ledger"
                assert least <= found <= most
                wait_for(acknowledged, most)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
    assert failures == [], failures
    print(f"{COPIES} copies, {len(acknowledged)} acknowledged, slowest copy {slowest_s:.2f} s", file=sys.stderr)


def wait_for(ledger: list[str], more_than: int) -> None:
    """Wait until the ledger goes on: copies of a server that stands still would show nothing."""
    end = time.monotonic() + 60
    while len(ledger) <= more_than:
        assert time.monotonic() < end, "the server stands still"
        time.sleep(0.005)
