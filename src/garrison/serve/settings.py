"""Settings: environment and `.env`, prefix `GARRISON_`, read once at start (ASVS 5.0 V13; CWE-209, CWE-532).

Every problem is listed at once, by the variable's name and never its value: what pydantic reports is taken without its
input. What this version does not serve yet is a problem, too: a setting that is silently ignored is a hole.
`Settings(env="production", …)` makes the same value in code, with the same checks and without reading anything.
"""

import difflib
import io
import json
import os
import re
import secrets as random_secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from garrison.core.durations import Limit, parse_duration, parse_limit
from garrison.core.errors import SettingsError
from garrison.core.network import Network, is_loopback, parse_network
from garrison.core.sealing import MIN_SECRET_BYTES
from garrison.guard.settings import GuardSettings
from garrison.identity.clients.registration import MAX_SCOPES, is_scope
from garrison.identity.issuers.fetch import check_client
from garrison.identity.issuers.model import parse_issuers
from garrison.identity.providers.configured import parse_providers
from garrison.identity.settings import IdentitySettings, PasswordCost, parse_cost
from garrison.store.opening import check_address, has_driver, is_postgresql
from garrison.store.redis import RedisAddress, check_installed, redis_address

PREFIX = "GARRISON_"
PROCESSES = "GARRISON_PROCESSES"
"""Set by `garrison serve` for its workers: how many share the limits."""
SECRET_FILE = Path("var/secret")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_ISSUER = re.compile(
    r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?",
    re.ASCII | re.IGNORECASE,
)
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:.]+\])", re.ASCII)
_LOOPBACK_NAMES = frozenset({"localhost"})
T = TypeVar("T")


class Settings(BaseModel):
    """What a process is told. Durations are given as text or seconds, limits as `N/duration`, lists with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    env: Literal["development", "production"] = "development"
    dev_expose: bool = False
    """A development server may answer beyond this machine."""
    database_url: str = Field(default="sqlite:///var/garrison.db", repr=False)
    """`sqlite:///PATH` or `postgresql://user:password@host:5432/database?sslmode=…`."""
    redis_url: SecretStr = SecretStr("")
    session_store: Literal["sql", "redis"] = "sql"
    session_format: Literal["opaque", "jwt"] = "opaque"
    secret: SecretStr = SecretStr("")
    """One or more secrets of at least 32 bytes, the newest first; in development made and kept in `var/secret`."""
    issuer: str = ""
    audience: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    health_networks: tuple[Network, ...] = ()
    undecided: Literal["refuse", "deny"] = "refuse"
    email_verification: Literal["optional", "required", ""] = ""
    basic: bool = False
    sign_up_key: Literal["off", "required"] = "off"
    """`required`: signing up needs an app key."""
    refresh_grace: float = 10.0
    access_ttl: float = 900.0
    refresh_ttl: float = 7 * 86_400.0
    session_idle: float = 14 * 86_400.0
    session_max: float = 30 * 86_400.0
    revocation_bound: float = 2.0
    leeway: float = 60.0
    limit_address: Limit = Limit(1200, 60)
    limit_api: Limit = Limit(100, 60)
    limit_sign_in: Limit = Limit(5, 900)
    limit_sign_in_address: Limit = Limit(50, 900)
    limit_sign_up: Limit = Limit(20, 3600)
    limit_refresh: Limit = Limit(60, 60)
    limit_oauth_token: Limit = Limit(60, 60)
    limit_oauth_token_failed: Limit = Limit(20, 900)
    limit_lease: int = Field(default=0, ge=0, le=1000)
    """How many hits of a busy key a process may pay for in advance; see `guard/shared_limits.py`."""
    signing_algorithm: Literal["RS256", "ES256", "EdDSA", "HS256"] = "RS256"
    signing_secret: SecretStr = SecretStr("")
    """For HS256 alone: the secret that signs and verifies, at least 32 bytes."""
    foreign_issuers: SecretStr = SecretStr("")
    """JSON: whose tokens are taken beside ours; see `identity/issuers/model.py`."""
    providers: SecretStr = SecretStr("")
    """JSON: whom people may sign in with; see `identity/providers/configured.py`."""
    client_documents: bool = False
    """Clients are taken whose id is the URL of a document that describes them (MCP clients, above all)."""
    client_document_scopes: tuple[str, ...] = ()
    """What such clients may ask for beside `openid email`."""
    key_lifetime: float = 90 * 86_400.0
    jwks_max_age: float = 300.0
    password_cost: PasswordCost = PasswordCost()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    processes: int = Field(default=1, ge=1)
    drain: float = Field(default=0.0, le=2.0)
    """Seconds; with `GRACE_S` of the server, everything has ended before 10."""

    _port: int = PrivateAttr(8000)
    _directory: Path = PrivateAttr(Path())
    _env_is_set: bool = PrivateAttr(True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(self._all_problems(_problems(error), values)) from None
        problems = self._cross_checks()
        if problems:
            raise SettingsError(problems)

    def _all_problems(self, problems: list[tuple[str, str]], values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return `problems` and those among the values that are right by themselves: everything is told at once."""
        wrong = {name for name, _ in problems}
        try:
            super().__init__(**{name: value for name, value in values.items() if _name(name) not in wrong})
        except ValidationError:
            return problems
        if _name("session_max") in wrong:
            wrong.add(_name("session_idle"))
        return [*problems, *(one for one in self._cross_checks() if one[0] not in wrong)]

    # Reading text

    @field_validator("allowed_hosts", "allowed_origins", "client_document_scopes", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return _parts(value)

    @field_validator("trusted_proxies", "health_networks", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        parts = _parts(value)
        if not isinstance(parts, tuple | list):
            return parts
        help_text = "write networks as CIDR, for example 10.0.0.0/8 or ::1, without host bits, IPv4 ones as IPv4"
        return tuple(_parsed(parse_network, one, help_text) if isinstance(one, str) else one for one in parts)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        hosts = tuple(host.lower().rstrip(".") for host in value)
        if any(_HOST.fullmatch(host) is None for host in hosts):
            raise _problem("write host names without port, scheme or wildcard, for example api.example.com")
        return hosts

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(_as_sent(origin.lower()) for origin in value)
        if any(origin in ("*", "null") for origin in origins):
            raise _problem("name each origin: * and null would let every page act with its visitors' cookies")
        help_text = "write origins as scheme://host or scheme://host:port, without a path"
        if any(_ORIGIN.fullmatch(one) is None or _parsed(_port_of, one, help_text) == 0 for one in origins):
            raise _problem(help_text)
        return origins

    @field_validator("client_document_scopes")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > MAX_SCOPES or not all(is_scope(scope) for scope in value):
            raise _problem(f"write at most {MAX_SCOPES} scopes, for example tasks:read,tasks:write")
        return tuple(dict.fromkeys(value))

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str) -> str:
        if not value:
            return value
        parts = _parsed(urlsplit, value, _ISSUER_HELP)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or _ISSUER.fullmatch(value) is None
            or _parsed(lambda split: split.port, parts, _ISSUER_HELP) == 0
        ):
            raise _problem(_ISSUER_HELP)
        if parts.scheme == "http" and not (parts.hostname in _LOOPBACK_NAMES or is_loopback(parts.hostname)):
            raise _problem("http is for loopback only; use https")
        return value

    @field_validator(
        "refresh_grace",
        "access_ttl",
        "refresh_ttl",
        "session_idle",
        "session_max",
        "revocation_bound",
        "leeway",
        "key_lifetime",
        "jwks_max_age",
        mode="before",
    )
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return _parsed(parse_duration, value, "write a duration as seconds (900), 10s, 15m, 1h, 7d, or '15 minutes'")

    @field_validator(
        "limit_address",
        "limit_api",
        "limit_sign_in",
        "limit_sign_in_address",
        "limit_sign_up",
        "limit_refresh",
        "limit_oauth_token",
        "limit_oauth_token_failed",
        mode="before",
    )
    @classmethod
    def _limit(cls, value: Any) -> Any:
        return _parsed(parse_limit, value, "write a limit as N/duration, for example 100/minute or 5/15 minutes")

    @field_validator("drain", mode="before")
    @classmethod
    def _drain(cls, value: Any) -> Any:
        help_text = "write 0 or a duration of at most 2s"
        return 0.0 if str(value) in ("0", "0.0") else _parsed(parse_duration, value, help_text)

    @field_validator("password_cost", mode="before")
    @classmethod
    def _cost(cls, value: Any) -> Any:
        help_text = "write m=KiB,t=passes,p=lanes, for example m=19456,t=2,p=1"
        return _parsed(parse_cost, value, help_text) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if is_postgresql(value):
            if not has_driver(value):
                raise _problem("needs a driver for PostgreSQL: install Garrison with its extra, garrison[postgres]")
            try:
                check_address(value)
            except ValueError as error:
                raise _problem(str(error)) from None
            return value
        path = value.removeprefix("sqlite:///")
        if path in ("", value, ":memory:") or "?" in path or "\x00" in path:
            raise _problem(_DATABASE_HELP)
        return value

    @field_validator("secret", mode="before")
    @classmethod
    def _secret(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if text and (not parts or any(len(part.encode()) < MIN_SECRET_BYTES for part in parts)):
            raise _problem(_SECRET_HELP)
        return SecretStr(",".join(parts))

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: Any) -> Any:
        """`GARRISON_X=` in a file means: the default."""
        return {key: value for key, value in values.items() if value != ""} if isinstance(values, dict) else values

    def _cross_checks(self) -> list[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        if self.session_store == "redis" and not self.redis_url.get_secret_value():
            problems.append((_name("session_store"), "redis goes with REDIS_URL, where they are kept"))
        if self.session_store == "redis" and self.session_format == "jwt":
            problems.append((_name("session_store"), "redis goes with SESSION_FORMAT=opaque: a JWT needs no look-up"))
        try:
            if self.redis_address() is not None:
                check_installed()
        except ValueError as error:
            problems.append((_name("redis_url"), str(error)))
        except SettingsError as error:
            problems.append(error.problems[0])
        if self.limit_lease and not self.redis_url.get_secret_value():
            problems.append((_name("limit_lease"), "goes with REDIS_URL: without it nothing is shared"))
        if self.email_verification == "required" or (not self.email_verification and not self.development):
            problems.append(
                (
                    _name("email_verification"),
                    "this version sends no mail; set it to optional, knowing that then a "
                    "sign-in right after a sign-up tells whether an address was taken",
                )
            )
        if not self.development:
            if not self.secret.get_secret_value():
                problems.append((_name("secret"), f"production needs one: {_SECRET_HELP}"))
            if not self.issuer:
                problems.append((_name("issuer"), f"production needs it: {_ISSUER_HELP}"))
            if self.dev_expose:
                problems.append((_name("dev_expose"), "is for development only"))
            least = PasswordCost()
            if self.password_cost.memory_kib < least.memory_kib or self.password_cost.passes < least.passes:
                text = f"production hashes with at least m={least.memory_kib},t={least.passes},p=1"
                problems.append((_name("password_cost"), text))
        for name, parse in (("foreign_issuers", parse_issuers), ("providers", parse_providers)):
            try:
                if self._parsed_json(name, parse):
                    check_client()
            except ValueError as error:
                problems.append((_name(name), str(error)))
            except SettingsError as error:
                problems.append((_name(name), error.problems[0][1]))
        if self.client_documents:
            try:
                check_client()
            except SettingsError as error:
                problems.append((_name("client_documents"), error.problems[0][1]))
        secret = self.signing_secret.get_secret_value().encode()
        if self.signing_algorithm == "HS256" and len(secret) < MIN_SECRET_BYTES:
            text = f"HS256 needs a secret of at least {MIN_SECRET_BYTES} bytes"
            problems.append((_name("signing_secret"), text))
        if self.signing_algorithm != "HS256" and secret:
            problems.append((_name("signing_secret"), "goes with SIGNING_ALGORITHM=HS256 and with nothing else"))
        if self.session_idle > self.session_max:
            problems.append((_name("session_idle"), "is longer than SESSION_MAX"))
        return problems

    def _parsed_json(self, name: str, parse: Callable[[Any], T]) -> T:
        """Return a setting that is written as JSON. Raises ValueError, without the value."""
        text = getattr(self, name).get_secret_value()
        if not text:
            return parse([])
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        return parse(document)

    # What others are told

    @property
    def development(self) -> bool:
        """Say whether this is a development process."""
        return self.env == "development"

    @property
    def env_is_set(self) -> bool:
        """Say whether somebody said which environment this is."""
        return self._env_is_set

    @property
    def issuer_url(self) -> str:
        """The issuer, by default this server's loopback address."""
        return self.issuer or f"http://127.0.0.1:{self._port}"

    @property
    def store_address(self) -> str | Path:
        """Where the data is: a SQLite file, relative to the directory that was read, or PostgreSQL's URL."""
        if is_postgresql(self.database_url):
            return self.database_url
        return self._directory / self.database_url.removeprefix("sqlite:///")

    @property
    def revocation_bound_s(self) -> float:
        """Seconds after which a process that hears no news asks the store for everything."""
        return self.revocation_bound

    def redis_address(self) -> RedisAddress | None:
        """Return where Redis is, None where there is to be none. Raises ValueError, without the value."""
        url = self.redis_url.get_secret_value()
        return redis_address(url) if url else None

    def has_secret(self) -> bool:
        """Say whether there is a master secret already, so that `secrets` makes none."""
        return bool(self.secret.get_secret_value()) or (self._directory / SECRET_FILE).exists()

    def secrets(self) -> list[bytes]:
        """Return the master secrets, newest first; development makes one at first use and keeps it in a file."""
        text = self.secret.get_secret_value()
        if not text:
            text = _development_secret(self._directory / SECRET_FILE)
        return [part.encode() for part in text.split(",")]

    def guard(self) -> GuardSettings:
        """Return the guard's part."""
        host = urlsplit(self.issuer_url).hostname or ""
        own = f"[{host}]" if ":" in host else host
        return GuardSettings(
            development=self.development,
            expose=self.dev_expose,
            issuer=self.issuer_url,
            trusted_proxies=self.trusted_proxies,
            allowed_hosts=frozenset({own, *self.allowed_hosts}),
            allowed_origins=frozenset(self.allowed_origins),
            health_networks=self.health_networks,
            limit_address=self.limit_address,
            limit_api=self.limit_api,
            share=self.processes,
            revocation_bound_s=self.revocation_bound,
        )

    def identity(self) -> IdentitySettings:
        """Return identity's part."""
        return IdentitySettings(
            development=self.development,
            issuer=self.issuer_url,
            session_idle_s=self.session_idle,
            session_max_s=self.session_max,
            limit_sign_in=self.limit_sign_in,
            limit_sign_in_address=self.limit_sign_in_address,
            limit_sign_up=self.limit_sign_up,
            password_cost=self.password_cost,
            session_format=self.session_format,
            audience=self.audience,
            signing_algorithm=self.signing_algorithm,
            signing_secret=self.signing_secret.get_secret_value().encode(),
            key_lifetime_s=self.key_lifetime,
            jwks_max_age_s=self.jwks_max_age,
            revocation_bound_s=self.revocation_bound,
            access_ttl_s=self.access_ttl,
            refresh_ttl_s=self.refresh_ttl,
            refresh_grace_s=self.refresh_grace,
            leeway_s=self.leeway,
            sign_up_needs_key=self.sign_up_key == "required",
            basic=self.basic,
            limit_refresh=self.limit_refresh,
            limit_oauth_token=self.limit_oauth_token,
            limit_oauth_token_failed=self.limit_oauth_token_failed,
            share=self.processes,
            foreign_issuers=self._parsed_json("foreign_issuers", parse_issuers),
            providers=self._parsed_json("providers", parse_providers),
            client_documents=self.client_documents,
            client_document_scopes=self.client_document_scopes,
        )


def load_settings(
    *, port: int | None = None, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> Settings:
    """Read the environment and `.env` of `directory` (the current one); the environment wins.

    `port` is where the server will listen, for the default of `ISSUER`; without it the variable `PORT`, else 8000.
    Raises SettingsError with every problem.
    """
    environment = os.environ if environ is None else environ
    where = directory if directory is not None else Path()
    named, problems = written_settings(environment, where)
    known = set(Settings.model_fields)
    fields = {_name(field): field for field in known}
    problems.extend((name, _unknown(name, known)) for name in sorted(named) if name not in fields)
    values = {fields[name]: value for name, value in named.items() if name in fields}
    chosen = environment.get("PORT", "") if port is None else str(port)
    if chosen and not (chosen.isascii() and chosen.isdigit() and len(chosen) < 6 and 0 < int(chosen) < 65_536):
        problems.append(("PORT", "write a port number, 1 to 65535"))
        chosen = ""
    try:
        settings = Settings(**values)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    settings._port = int(chosen or 8000)
    settings._directory = where
    settings._env_is_set = bool(values.get("env"))
    return settings


def written_settings(environ: Mapping[str, str], directory: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return our variables as the environment, else `.env`, has them, and what is wrong with that file.

    A line with one of ours that cannot be read is a problem. Passing it over, as dotenv does, would start development
    where it said `GARRISON_ENV="production`. So is a name in small letters, and one whose value stands nowhere.
    """
    file = directory / ".env"
    named: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    try:
        text = file.read_text("utf-8-sig") if file.is_file() else ""
    except (OSError, UnicodeError):
        text, problems = "", [(file.name, "cannot be read as UTF-8 text")]
    for one in parse_stream(io.StringIO(text)):
        if one.error and PREFIX in one.original.string.upper():
            problems.append((file.name, f"line {one.original.line} cannot be read; write NAME=value, quotes in pairs"))
        elif one.key is not None and _is_ours(one.key):
            if one.value is None and one.key not in environ:
                problems.append((one.key, f"has no value in {file.name}; write {one.key}=value"))
            elif one.value is not None:
                named[one.key] = one.value
    named.update((name, value) for name, value in environ.items() if _is_ours(name))
    return named, problems


def _development_secret(file: Path) -> str:
    """Return the secret of this directory, made once: created exclusively, so that two starts agree on one."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(random_secrets.token_urlsafe(48) + "\n")
            opened.flush()
            os.fsync(opened.fileno())  # what is sealed under it is durable, too
    text = ""
    for _ in range(200):  # whoever created it may be about to write
        try:
            text = file.read_text().strip()
        except (OSError, UnicodeError):
            raise SettingsError([(_name("secret"), f"{SECRET_FILE} cannot be read")]) from None
        if text:
            break
        time.sleep(0.01)
    if len(text.encode()) < MIN_SECRET_BYTES:
        raise SettingsError([(_name("secret"), f"{SECRET_FILE} does not hold a secret of {MIN_SECRET_BYTES} bytes")])
    return text


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    """Return each variable and what to do. `msg` of our own errors says it; pydantic's own say what is allowed."""
    found: dict[str, str] = {}
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        found.setdefault(_name(str(one["loc"][0])) if one["loc"] else PREFIX, _sentence(one["msg"]))
    return list(found.items())


def _parts(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _as_sent(origin: str) -> str:
    """Return the origin as browsers send it: they leave out the scheme's own port (RFC 6454 section 6.2)."""
    scheme, _, _ = origin.partition("://")
    return origin.removesuffix({"http": ":80", "https": ":443"}.get(scheme, ""))


def _port_of(origin: str) -> int | None:
    return urlsplit(origin).port


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]


def _name(field: str) -> str:
    return PREFIX + field.upper()


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("settings", text)


def _parsed(parse: Callable[[Any], T], value: Any, help_text: str) -> T:
    try:
        return parse(value)
    except (ValueError, TypeError, AttributeError):
        raise _problem(help_text) from None


def _is_ours(name: str) -> bool:
    """Say whether a variable is meant for us: in small letters, too, which would else be passed over."""
    return name.upper().startswith(PREFIX)


def _unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX).lower(), known, n=1)
    return f"is no setting; did you mean {_name(near[0])}?" if near else "is no setting"


_SECRET_HELP = (
    f"at least {MIN_SECRET_BYTES} bytes, for example from `openssl rand -base64 48`; "
    "a list with commas, the newest first, while rotating"
)
_DATABASE_HELP = (
    "write sqlite:///var/garrison.db or another path, or postgresql://user:password@host:5432/database, with what is "
    "special in a password as %XX"
)
_ISSUER_HELP = "write the URL that clients see, for example https://api.example.com, without user, query or fragment"
