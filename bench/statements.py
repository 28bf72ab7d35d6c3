"""Every statement that the product runs, run once in a seeded database and recorded, so that its plan can be looked at.

`every` calls each query function there is, with rows that exist; what it changes is rolled back. `cold` are the reads
of the guard that go to the driver itself. A test holds both against the code, so that a new query cannot be missing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from bench.plans import Recorder, Statement, recorded
from bench.seed import Population
from garrison.core.clock import Clock
from garrison.core.durations import Limit
from garrison.core.events import Event
from garrison.core.ids import AccountId, SessionId
from garrison.core.sealing import Sealer
from garrison.guard.authenticate import REFUSED
from garrison.guard.limit_table import LimitTable
from garrison.guard.revocation import RevocationView
from garrison.identity.accounts import queries as of_accounts
from garrison.identity.accounts.email import parse_email
from garrison.identity.clients import queries as of_clients
from garrison.identity.clients.model import Client
from garrison.identity.devices import queries as of_devices
from garrison.identity.issuers import refused
from garrison.identity.keys import queries as of_keys
from garrison.identity.keys.model import Key
from garrison.identity.oauth import codes, device_codes
from garrison.identity.oauth.in_force import OwnTokens
from garrison.identity.oauth.revoked import insert_revoked
from garrison.identity.providers import queries as of_providers
from garrison.identity.sessions import queries as of_sessions
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing import queries as of_signing
from garrison.identity.tokens import queries as of_tokens
from garrison.identity.tokens.exchanged import Link, exchanged
from garrison.identity.tokens.reader import Claimed
from garrison.serve.wiring import SWEPT, wire_identity
from garrison.store import audit, counters, home, leases, log
from garrison.store.database import Database
from garrison.store.secret_check import check_secret
from garrison.store.sweeper import store_sweeps, sweep_batch


class Run:
    """A query function and its arguments after the connection."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        self.function = function
        self._arguments = arguments
        self._named = named

    def __call__(self, connection: Connection) -> None:
        """Call it."""
        self.function(connection, *self._arguments, **self._named)


def every(people: Population, *, kid: str, sealer: Sealer) -> Sequence[Run]:
    """Return calls of every query function, none of which depends on another."""
    now, account, session, key = people.now, people.account_id(7), people.session_id(2), people.key_id(3)
    family, client = people.session_id(3), people.client_id(1)
    counted = ((b"k" * 32, Limit(5, 900)), (b"l" * 32, Limit(5, 900)))
    return (
        *_of_accounts(people, account, now),
        *_of_sessions(people, account, session, client, now),
        *_of_tokens(family, now),
        *_of_keys(account, key, now),
        *_of_clients(client),
        *_of_oauth(people, account, client, now),
        *_of_signing(kid, now),
        Run(of_devices.find_device, people.device_secret(1), people.account_id(2), now),
        Run(of_devices.touch_device, "dev_x", now=now, expires_at=now),
        Run(of_devices.insert_device, "secret", account, now=now, expires_at=now, most=100),
        Run(of_devices.delete_devices, account),
        Run(of_providers.find_linked, "https://accounts.example.com", "subject"),
        Run(of_providers.link, "https://accounts.example.com", "subject", account, now),
        Run(refused.end_tokens, "https://accounts.example.com", "subject", now, refuse=True),
        Run(refused.allow_subject, "https://accounts.example.com", "subject"),
        Run(refused.get_subject, "https://accounts.example.com", people.refused_subject(0)),
        Run(refused.list_subjects),
        Run(audit.record, Event("session.created"), now),
        Run(audit.list_events),
        Run(audit.list_events, subject=account),
        Run(audit.record_refusals, {("code", "who", "route", 1): 2}, 3, now),
        Run(counters.take, counted, now),
        Run(counters.give_back, counted, now),
        Run(counters.delay, *counted[0], now, max_s=30.0),
        Run(leases.take, "sweep", "holder", now=now, ttl_s=90.0),
        Run(leases.release, "sweep", "holder"),
        Run(log.append, "account", account, 2, now),
        Run(log.read_after, 1, 1000),
        Run(log.last_position),
        Run(check_secret, sealer),
        Run(home.is_at_home),
        Run(home.settle),
        Run(sweep_batch, (*SWEPT, *store_sweeps()), now),
    )


def _of_accounts(people: Population, account: str, now: float) -> Sequence[Run]:
    email = parse_email("new@example.com")
    return (
        Run(of_accounts.insert_account, AccountId("acc_new"), email, None, "", now),
        Run(of_accounts.find_account, account),
        Run(of_accounts.find_by_key, people.email(7)),
        Run(of_accounts.find_credentials, email_key=people.email(7)),
        Run(of_accounts.find_credentials, account_id=account),
        Run(of_accounts.find_roles, account),
        Run(of_accounts.list_accounts, after=account, limit=100),
        Run(of_accounts.set_roles, account, "editor"),
        Run(of_accounts.set_status, account, "disabled", end_sessions=True),
        Run(of_accounts.set_status, account, "active", end_sessions=False),
        Run(of_accounts.raise_epoch, account),
        Run(of_accounts.set_password, account, "hash"),
        Run(of_accounts.clear_password, account),
        Run(of_accounts.upgrade_hash, account, "old", "new"),
    )


def _of_sessions(people: Population, account: str, session: str, client: str, now: float) -> Sequence[Run]:
    owner = people.account_id(people.account_of_session(2))
    begin: dict[str, Any] = {
        "session_id": SessionId("ses_new"),
        "secret_digest": bytes(32),
        "account_id": account,
        "carrier": "cookie",
        "factors": "[]",
        "device_id": None,
        "client": "",
        "network": "",
        "now": now,
        "idle_until": now,
        "expires_at": now,
    }
    return (
        Run(of_sessions.insert_session, **begin),
        Run(of_sessions.list_sessions, owner, now=now, lag_s=60.0),
        Run(of_sessions.is_alive, session, owner),
        Run(of_sessions.touch_sessions, [(session, now)], 60.0),
        Run(of_sessions.delete_session, session),
        Run(of_sessions.delete_session, session, account_id=owner),
        Run(of_sessions.delete_sessions, owner),
        Run(of_sessions.delete_sessions, owner, keep=session),
        Run(of_sessions.delete_beyond, owner, 1),
        Run(of_sessions.delete_sessions_of_client, client),
    )


def _of_tokens(family: str, now: float) -> Sequence[Run]:
    return (
        Run(of_tokens.find_presented, bytes(32)),
        Run(of_tokens.insert_token, bytes(32), session_id=family, number=9, expires_at=now),
        Run(of_tokens.use_token, bytes(32), now=now, successor=b"sealed"),
        Run(of_tokens.acknowledge, family, 3),
        Run(of_tokens.bind_family, family),
    )


def _of_keys(account: str, key: str, now: float) -> Sequence[Run]:
    new = Key("key_new", account, "api", "New", (), (), "", None, now, None)
    return (
        Run(of_keys.insert_key, new, bytes(32)),
        Run(of_keys.list_keys, account),
        Run(of_keys.list_keys, None),
        Run(of_keys.count_live_apps, now),
        Run(of_keys.replace_secret, key, account, bytes(32), now),
        Run(of_keys.delete_key, key, account),
        Run(of_keys.touch_keys, [(key, now)]),
    )


def _of_clients(client: str) -> Sequence[Run]:
    new = Client("cli_new", "New", (), (), (), (), "active", 1, 0.0)
    return (
        Run(of_clients.insert_client, new, bytes(32)),
        Run(of_clients.find_client, client),
        Run(of_clients.is_active, client),
        Run(of_clients.list_clients),
        Run(of_clients.set_secret, client, bytes(32), earlier=bytes(32), earlier_until=0.0),
        Run(of_clients.set_keys, client, "{}"),
        Run(of_clients.set_status, client, "disabled"),
        Run(of_clients.delete_client, client),
    )


def _of_oauth(people: Population, account: str, client: str, now: float) -> Sequence[Run]:
    code = codes.Code(client, account, 1, "https://app.example.com/callback", "", "", "", "", now, now, None, None)
    decided: dict[str, Any] = {"account_id": account, "account_version": 1, "proved_at": now, "now": now}
    return (
        Run(codes.insert_code, bytes(32), code, now=now),
        Run(codes.find_code, bytes(32)),
        Run(codes.spend_code, bytes(32), people.session_id(3)),
        Run(codes.delete_codes_of_client, client),
        Run(device_codes.insert_device_code, bytes(32), bytes(32), client_id=client, scope="", audience="", now=now),
        Run(device_codes.find_device_code, bytes(32)),
        Run(device_codes.find_by_user_code, bytes(32), now=now),
        Run(device_codes.decide_device_code, bytes(32), "allowed", **decided),
        Run(device_codes.wait_longer, bytes(32), interval_s=5.0, next_at=now),
        Run(device_codes.spend_device_code, bytes(32), people.session_id(3)),
        Run(device_codes.delete_device_codes_of_client, client),
        Run(insert_revoked, "jti", now),
    )


def _of_signing(kid: str, now: float) -> Sequence[Run]:
    new: dict[str, Any] = {"kid": "new", "algorithm": "ES256", "sealed": b"", "public": "{}", "now": now}
    return (
        Run(of_signing.list_keys),
        Run(of_signing.insert_key, state="retired", **new),
        Run(of_signing.plan_key, kid, now),
        Run(of_signing.seal_anew, kid, b"sealed"),
        Run(of_signing.set_state, kid, "retired", now=now),
        Run(of_signing.delete_ended, now),
    )


def cold(people: Population, *, kid: str) -> Sequence[Statement]:
    """Return what the guard asks the driver itself."""
    session, account = people.session_id(3), people.account_id(7)
    asked: dict[str, tuple[Any, ...]] = {
        of_sessions.COLD_READ: (bytes(32),),
        of_sessions.COLD_READ_BY_ID: (session,),
        of_tokens.ACCESS_READ: (kid, session),
        of_keys.KEY_READ: (bytes(32),) * 3,
        of_clients.CLIENT_READ: (kid, "jti", people.client_id(1)),
        refused.SUBJECT_READ: ("https://accounts.example.com", *[account] * 4),
        of_signing.LOAD: (),
        log.READ_AFTER: (1, 1000),
        log.LAST_POSITION: (),
        log.POSITION_BEFORE: (people.now,),
    }
    direct = Claimed(of_tokens.ACCESS_READ, (kid, session), lambda _row, _earlier, _call: REFUSED)
    link = Link(people.client_id(1), 1, "jti")
    found = exchanged(direct, (link,), {"scope": "", "client_id": link.client_id})
    if found is not None:
        asked[found.sql] = found.parameters
    return [Statement(sql, parameters, "cold") for sql, parameters in asked.items()]


async def record(
    database: Database, people: Population, clock: Clock, sealer: Sealer, settings: IdentitySettings
) -> list[Statement]:
    """Return every statement there is, the guard's among them; the database is left as it was, but for signing keys."""
    identity = wire_identity(
        database, clock, RevocationView(clock), sealer, settings, lambda roles: frozenset(), LimitTable()
    )
    try:
        await identity.signing.keep()
        kid = identity.keyring.signing.kid
        own = OwnTokens(database, identity.keyring, identity.signing, clock, lambda roles: frozenset(), settings)
        session = people.family(0)
        claims = {"sub": people.account_id(people.account_of_session(session)), "sid": people.session_id(session)}
        runs = every(people, kid=kid, sealer=sealer)
        with recorded() as recorder:
            await database.write(partial(_rolled_back, runs=runs, recorder=recorder))
            recorder.of = "oauth.in_force"
            await own.scopes_of({**claims, "via": [[people.client_id(1), 1, "jti"]]}, kid)
    finally:
        identity.passwords.close()
    return [*recorder.statements, *cold(people, kid=kid)]


def _rolled_back(connection: Connection, *, runs: Sequence[Run], recorder: Recorder) -> None:
    for run in runs:
        recorder.of = name_of(run.function)
        savepoint = connection.begin_nested()
        run(connection)
        savepoint.rollback()


def name_of(function: Callable[..., Any]) -> str:
    """Return what a query function is called here: its module below its room, and its name."""
    module = function.__module__.removeprefix("garrison.").removeprefix("identity.").removeprefix("store.")
    return f"{module}.{function.__name__}"
