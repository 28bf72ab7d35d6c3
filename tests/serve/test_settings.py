"""Settings: every variable, every mistake at once, and never a value."""

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from garrison.core.durations import Limit
from garrison.core.errors import SettingsError
from garrison.core.network import parse_network
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import SECRET_FILE, Settings, load_settings
from garrison.store.opening import shown

SECRET = "canary-" + "s" * 40
PRODUCTION: dict[str, Any] = {
    "env": "production",
    "secret": SECRET,
    "issuer": "https://api.example.com",
    "email_verification": "optional",
}


def load(directory: Path, environ: Mapping[str, str] | None = None, *, port: int | None = None) -> Settings:
    """Read settings as a process of this directory and environment would; names come without the prefix."""
    named = {name if name == "PORT" else f"GARRISON_{name}": value for name, value in (environ or {}).items()}
    return load_settings(environ=named, directory=directory, port=port)


def problems(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong, by the variable's name without the prefix."""
    with pytest.raises(SettingsError) as caught:
        load(directory, environ)
    assert str(caught.value) == "\n".join(f"{name}: {text}" for name, text in caught.value.problems)
    found = {name.removeprefix("GARRISON_"): text for name, text in caught.value.problems}
    assert len(found) == len(caught.value.problems), "a variable is listed twice"
    return found


# Every variable, with its default

DEFAULTS: dict[str, Any] = {
    "env": "development",
    "dev_expose": False,
    "database_url": "sqlite:///var/garrison.db",
    "session_store": "sql",
    "session_format": "opaque",
    "issuer": "",
    "audience": "",
    "allowed_hosts": (),
    "allowed_origins": (),
    "trusted_proxies": (),
    "health_networks": (),
    "undecided": "refuse",
    "email_verification": "",
    "basic": False,
    "sign_up_key": "off",
    "refresh_grace": 10,
    "access_ttl": 15 * 60,
    "refresh_ttl": 7 * 86_400,
    "session_idle": 14 * 86_400,
    "session_max": 30 * 86_400,
    "revocation_bound": 2,
    "leeway": 60,
    "limit_address": Limit(1200, 60),
    "limit_api": Limit(100, 60),
    "limit_sign_in": Limit(5, 900),
    "limit_sign_in_address": Limit(50, 900),
    "limit_sign_up": Limit(20, 3600),
    "limit_refresh": Limit(60, 60),
    "limit_oauth_token": Limit(60, 60),
    "limit_oauth_token_failed": Limit(20, 900),
    "limit_lease": 0,
    "signing_algorithm": "RS256",
    "client_documents": False,
    "client_document_scopes": (),
    "key_lifetime": 90 * 86_400,
    "jwks_max_age": 300,
    "password_cost": PasswordCost(19_456, 2, 1),
    "log_level": "info",
    "processes": 1,
    "drain": 0.0,
}


def test_every_variable_has_the_default_it_is_said_to_have(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    secret = {"secret", "signing_secret", "foreign_issuers", "providers", "redis_url"}
    assert set(Settings.model_fields) == DEFAULTS.keys() | secret
    assert not settings.env_is_set


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DEV_EXPOSE", "1", True),
        ("DATABASE_URL", "sqlite:////srv/data.db", "sqlite:////srv/data.db"),
        ("DATABASE_URL", "postgresql://u:p@db/garrison", "postgresql://u:p@db/garrison"),
        ("ISSUER", "https://api.example.com/", "https://api.example.com/"),
        ("AUDIENCE", "tasks", "tasks"),
        ("ALLOWED_HOSTS", "API.example.com, b.example.com.,", ("api.example.com", "b.example.com")),
        (
            "ALLOWED_ORIGINS",
            "https://App.example.com,http://[::1]:3000",
            ("https://app.example.com", "http://[::1]:3000"),
        ),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", (parse_network("10.0.0.0/8"), parse_network("::1"))),
        ("HEALTH_NETWORKS", "192.0.2.0/24", (parse_network("192.0.2.0/24"),)),
        ("UNDECIDED", "deny", "deny"),
        ("EMAIL_VERIFICATION", "optional", "optional"),
        ("BASIC", "off", False),
        ("REFRESH_GRACE", "5s", 5),
        ("ACCESS_TTL", "10m", 600),
        ("REFRESH_TTL", "1 day", 86_400),
        ("SESSION_IDLE", "2 hours", 7200),
        ("SESSION_MAX", "60d", 60 * 86_400),
        ("REVOCATION_BOUND", "0.5", 0.5),
        ("LEEWAY", "minute", 60),
        ("LIMIT_ADDRESS", "9/minute", Limit(9, 60)),
        ("LIMIT_API", "5/15 minutes", Limit(5, 900)),
        ("LIMIT_SIGN_IN", "3/1h", Limit(3, 3600)),
        ("LIMIT_SIGN_IN_ADDRESS", "7 / day", Limit(7, 86_400)),
        ("LIMIT_SIGN_UP", "1/90", Limit(1, 90)),
        ("LIMIT_REFRESH", "2/2 seconds", Limit(2, 2)),
        ("LIMIT_OAUTH_TOKEN", "4/s", None),
        ("LIMIT_OAUTH_TOKEN_FAILED", "4/10s", Limit(4, 10)),
        ("CLIENT_DOCUMENTS", "on", True),
        ("CLIENT_DOCUMENT_SCOPES", "tasks:read, tasks:write,tasks:read", ("tasks:read", "tasks:write")),
        ("PASSWORD_COST", "m=64,t=1,p=1", PasswordCost(64, 1, 1)),
        ("LOG_LEVEL", "debug", "debug"),
        ("PROCESSES", "4", 4),
    ],
)
def test_every_variable_can_be_set(name: str, text: str, value: Any, tmp_path: Path) -> None:
    if value is None:
        assert set(problems(tmp_path, {name: text})) == {name}
    else:
        assert getattr(load(tmp_path, {name: text}), name.lower()) == value


def test_an_empty_value_means_the_default(tmp_path: Path) -> None:
    settings = load(tmp_path, dict.fromkeys((name.upper() for name in DEFAULTS), ""))
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


def test_what_the_parts_are_told_comes_from_the_settings() -> None:
    settings = Settings(
        **PRODUCTION, allowed_hosts="b.example.com", processes=3, session_idle="1h", limit_api="7/minute"
    )
    guard, identity = settings.guard(), settings.identity()
    assert guard.allowed_hosts == {"api.example.com", "b.example.com"}
    assert (guard.development, guard.share, guard.limit_api) == (False, 3, Limit(7, 60))
    assert (identity.development, identity.session_idle_s, identity.issuer) == (False, 3600, "https://api.example.com")
    assert Settings(issuer="http://[::1]:9").guard().allowed_hosts == {"[::1]"}


# Mistakes

MISTAKES: dict[str, str] = {
    "ENV": "canary01",
    "DATABASE_URL": "mysql://canary02:canary03@db/x",
    "ISSUER": "https://canary04@example.com",
    "ALLOWED_HOSTS": "https://canary05.example.com",
    "ALLOWED_ORIGINS": "https://canary06.example.com/path",
    "TRUSTED_PROXIES": "10.0.0.1/8,canary07",
    "SECRET": "canary08",
    "ACCESS_TTL": "canary09",
    "LIMIT_API": "canary10/minute",
    "PASSWORD_COST": "canary11",
    "PROCESSES": "canary12",
    "BASIC": "canary13",
    "REDIS_URL": "redis://:canary14@cache/canary19",
    "LIMIT_APY": "canary15",
    "CLIENT_DOCUMENTS": "canary17",
    "CLIENT_DOCUMENT_SCOPES": "tasks:read canary18",
}


def test_all_mistakes_are_listed_at_once_by_name(tmp_path: Path) -> None:
    assert set(problems(tmp_path, MISTAKES)) == MISTAKES.keys()


def test_no_value_is_ever_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {**MISTAKES, "PORT": "canary16"})
    error = caught.value
    assert "PORT" in str(error)
    for told in (str(error), repr(error), repr(error.problems), repr(error.args), repr(error.__context__)):
        assert "canary" not in told


def test_a_secret_is_in_no_representation_of_the_settings() -> None:
    settings = Settings(**PRODUCTION)
    assert settings.secrets() == [SECRET.encode()]
    for told in (
        repr(settings),
        str(settings),
        f"{settings!r:.999}",
        settings.model_dump_json(),
        str(settings.identity()),
    ):
        assert "canary" not in told


def test_what_is_wrong_together_is_told_beside_what_is_wrong_alone(tmp_path: Path) -> None:
    found = problems(tmp_path, {"ENV": "production", "LEEWAY": "soon", "SESSION_STORE": "redis", "DEV_EXPOSE": "1"})
    assert set(found) == {"SECRET", "ISSUER", "EMAIL_VERIFICATION", "LEEWAY", "SESSION_STORE", "DEV_EXPOSE"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("LIMIT_APY", "LIMIT_API"),
        ("SECRETS", "SECRET"),
        ("issuer", "ISSUER"),
        ("Env", "ENV"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_suggestion(name: str, near: str, tmp_path: Path) -> None:
    assert f"GARRISON_{near}?" in problems(tmp_path, {name: "x"})[name]


@pytest.mark.parametrize("name", ["garrison_env", "Garrison_Env", "garrison_ENV"])
def test_a_variable_in_small_letters_is_not_passed_over(name: str, tmp_path: Path) -> None:
    """Else whoever writes `garrison_env=production` gets development."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={name: "production"}, directory=tmp_path)
    assert caught.value.problems == ((name, "is no setting; did you mean GARRISON_ENV?"),)
    (tmp_path / ".env").write_text(f"{name}=production\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, directory=tmp_path)
    assert caught.value.problems == ((name, "is no setting; did you mean GARRISON_ENV?"),)


def test_a_variable_without_a_value_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GARRISON_ENV\nOTHER\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, directory=tmp_path)
    assert caught.value.problems == (("GARRISON_ENV", "has no value in .env; write GARRISON_ENV=value"),)


def test_an_unknown_variable_like_no_other_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, {"ZZZ": "x"}) == {"ZZZ": "is no setting"}


def test_an_origin_is_kept_as_browsers_send_it() -> None:
    origins = Settings(
        allowed_origins="https://a.example:443,http://[::1]:80,https://b.example:80,http://c.example:443"
    )
    assert origins.allowed_origins == (
        "https://a.example",
        "http://[::1]",
        "https://b.example:80",
        "http://c.example:443",
    )


def test_in_code_a_misspelt_setting_is_refused_too() -> None:
    with pytest.raises(SettingsError, match="GARRISON_LIMIT_APY"):
        Settings(limit_apy="5/minute")


@pytest.mark.parametrize(
    "text", ["0", "-1", "soon", "1 week", "1e3", "m", "10 ms", "nan", "inf", "9999999999", "١s", "1,5"]
)
def test_what_is_no_duration_is_refused(text: str, tmp_path: Path) -> None:
    assert set(problems(tmp_path, {"LEEWAY": text})) == {"LEEWAY"}


@pytest.mark.parametrize(
    "text", ["0/minute", "5", "/minute", "5/0", "-5/minute", "5/soon", "5/5/5", "٥/minute", "1.5/minute"]
)
def test_what_is_no_limit_is_refused(text: str, tmp_path: Path) -> None:
    assert set(problems(tmp_path, {"LIMIT_API": text})) == {"LIMIT_API"}


@pytest.mark.parametrize("value", [Limit(0, 60), Limit(-1, 60), Limit(1, 0), Limit(1, float("nan")), 5, None])
def test_a_limit_made_in_code_cannot_be_nothing(value: Any) -> None:
    with pytest.raises(SettingsError):
        Settings(limit_api=value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, None])
def test_a_duration_made_in_code_cannot_be_nothing(value: Any) -> None:
    with pytest.raises(SettingsError):
        Settings(leeway=value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ALLOWED_HOSTS", "*"),
        ("ALLOWED_HOSTS", "*.example.com"),
        ("ALLOWED_HOSTS", "example.com:443"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "null"),
        ("ALLOWED_ORIGINS", "app.example.com"),
        ("ALLOWED_ORIGINS", "https://app.example.com/"),
        ("ALLOWED_ORIGINS", "https://app.example.com:99999"),
        ("ALLOWED_ORIGINS", "https://app.example.com:0"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "::ffff:10.0.0.0/104"),
        ("TRUSTED_PROXIES", "*"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:///var/garrison.db?mode=ro"),
        ("DATABASE_URL", "postgresql://db"),
        ("DATABASE_URL", "postgresql://db/garrison?sslmode=maybe"),
        ("PROCESSES", "0"),
        ("PROCESSES", "-2"),
        ("PASSWORD_COST", "m=1,t=1,p=1"),
        ("EMAIL_VERIFICATION", "required"),
        ("SESSION_IDLE", "31d"),
        ("SECRET", "short"),
        ("SECRET", ","),
        ("SECRET", "s" * 40 + ",short"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, text: str, tmp_path: Path) -> None:
    assert set(problems(tmp_path, {name: text})) == {name}


def test_sessions_in_redis_need_one_and_are_no_jwt(tmp_path: Path) -> None:
    assert "REDIS_URL" in problems(tmp_path, {"SESSION_STORE": "redis"})["SESSION_STORE"]
    redis = {"SESSION_STORE": "redis", "REDIS_URL": "redis://127.0.0.1:6379"}
    assert "SESSION_FORMAT" in problems(tmp_path, {**redis, "SESSION_FORMAT": "jwt"})["SESSION_STORE"]
    assert load(tmp_path, redis).session_store == "redis"


# Issuer


@pytest.mark.parametrize(
    ("environ", "port", "issuer"),
    [
        ({}, None, "http://127.0.0.1:8000"),
        ({"PORT": "9001"}, None, "http://127.0.0.1:9001"),
        ({"PORT": "9001"}, 9002, "http://127.0.0.1:9002"),
        ({"PORT": ""}, None, "http://127.0.0.1:8000"),
        ({"PORT": "9001", "ISSUER": "https://api.example.com"}, 9002, "https://api.example.com"),
        ({"ISSUER": "https://api.example.com/"}, None, "https://api.example.com/"),
        ({"ISSUER": "https://api.example.com/tenant/"}, None, "https://api.example.com/tenant/"),
    ],
)
def test_the_issuer_is_this_server_or_what_was_said_to_the_letter(
    environ: dict[str, str], port: int | None, issuer: str, tmp_path: Path
) -> None:
    settings = load(tmp_path, environ, port=port)
    assert settings.issuer_url == issuer
    assert settings.guard().issuer == issuer
    assert settings.identity().issuer == issuer


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80 80", "٨٠", "9" * 5000])
def test_what_is_no_port_is_refused(port: str, tmp_path: Path) -> None:
    assert set(problems(tmp_path, {"PORT": port})) == {"PORT"}


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000", "http://127.9.9.9"]
)
def test_http_is_for_loopback(issuer: str) -> None:
    assert Settings(issuer=issuer).issuer_url == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://api.example.com",
        "http://127.0.0.1.evil.com",
        "http://localhost.evil.com",
        "http://192.0.2.1",
        "http://0.0.0.0",
        "ftp://127.0.0.1",
        "api.example.com",
        "https://",
        "https://user@api.example.com",
        "https://:pw@api.example.com",
        "https://api.example.com?",
        "https://api.example.com#",
        "https://api.example.com/?a=b",
        "https://api.example.com/#a",
        "https://api.example.com\n",
        "https://api.exa\tmple.com",
        "https://api.example.com\\@evil.com",
        "https://api.example.com:99999",
        "https://api.example.com:0",
        "https://api.example.com:x",
        "https://[::1",
        "https://<script>",
        'https://api.example.com/"',
        "https://ｅxample.com",
        " https://api.example.com",
    ],
)
def test_any_other_issuer_is_refused(issuer: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(issuer=issuer)
    assert [name for name, _ in caught.value.problems] == ["GARRISON_ISSUER"]


# Production


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"secret": ""}, "SECRET"),
        ({"issuer": ""}, "ISSUER"),
        ({"email_verification": ""}, "EMAIL_VERIFICATION"),
        ({"email_verification": "required"}, "EMAIL_VERIFICATION"),
        ({"dev_expose": True}, "DEV_EXPOSE"),
        ({"password_cost": "m=8,t=9,p=1"}, "PASSWORD_COST"),
        ({"password_cost": "m=19456,t=1,p=1"}, "PASSWORD_COST"),
        ({"issuer": "http://api.example.com"}, "ISSUER"),
    ],
)
def test_production_needs_what_protects_it(changed: dict[str, Any], name: str) -> None:
    assert not Settings(**PRODUCTION).development
    with pytest.raises(SettingsError) as caught:
        Settings(**{**PRODUCTION, **changed})
    assert [found for found, _ in caught.value.problems] == [f"GARRISON_{name}"]


def test_production_makes_no_secret_of_its_own(tmp_path: Path) -> None:
    assert "SECRET" in problems(tmp_path, {"ENV": "production"})
    assert not (tmp_path / SECRET_FILE).exists()


# The secret


def test_several_secrets_are_kept_in_order_the_newest_first(tmp_path: Path) -> None:
    settings = load(tmp_path, {"SECRET": f" {'n' * 32} , {'o' * 32},"})
    assert settings.secrets() == [b"n" * 32, b"o" * 32]
    assert not (tmp_path / SECRET_FILE).exists()


def test_development_makes_a_secret_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / SECRET_FILE
    settings = load(tmp_path)
    assert not file.exists()  # reading settings writes nothing
    [secret] = settings.secrets()
    assert len(secret) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    before = file.stat()
    assert load(tmp_path).secrets() == [secret]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert load(tmp_path / "elsewhere").secrets() != [secret]


def test_a_secret_file_is_never_followed_out_of_the_directory_when_made(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "var").mkdir()
    (tmp_path / SECRET_FILE).symlink_to(target)
    with pytest.raises(SettingsError):
        load(tmp_path).secrets()
    assert not target.exists()


@pytest.mark.parametrize("content", [b"short\n", b"\xff" * 64])
def test_a_secret_file_without_a_secret_is_a_named_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / SECRET_FILE).write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path).secrets()
    assert caught.value.problems[0][0] == "GARRISON_SECRET"
    assert (tmp_path / SECRET_FILE).read_bytes() == content


def test_two_starts_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from garrison.serve.settings import load_settings; sys.stdin.read(1);"
        "print(load_settings(environ={}, directory=pathlib.Path(sys.argv[1])).secrets())"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("g")
        start.stdin.flush()
    said = {start.communicate(timeout=60)[0] for start in starts}
    assert [start.returncode for start in starts] == [0] * 4
    assert len(said) == 1


def test_who_comes_while_the_secret_is_being_written_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    os.mkfifo(tmp_path / SECRET_FILE)
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / SECRET_FILE)!r}, 'w').write('w' * 40)"])
    assert load(tmp_path).secrets() == [b"w" * 40]
    assert writer.wait(30) == 0


# The file


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "GARRISON_AUDIENCE=from-file\nexport GARRISON_LIMIT_API='7/minute'  # a comment\n"
        'GARRISON_ISSUER="https://api.example.com"\nOTHER=x\nGARRISON_LEEWAY=\nGARRISON_LOG_LEVEL\nPORT=9\n'
    )
    settings = load(tmp_path, {"AUDIENCE": "from-environment", "LOG_LEVEL": "error"})
    assert settings.audience == "from-environment"
    assert settings.log_level == "error", "a name alone means the environment's"
    assert settings.limit_api == Limit(7, 60)
    assert settings.issuer == "https://api.example.com"
    assert settings.leeway == 60


def test_mistakes_in_the_file_are_told_like_any_other(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GARRISON_LIMIT_API=canary\nGARRISON_NOTHING=canary\nGARRISON_ENV=canary\n")
    found = problems(tmp_path, {})
    assert set(found) == {"LIMIT_API", "NOTHING", "ENV"}
    assert "canary" not in str(found)


@pytest.mark.parametrize(
    "line", ['GARRISON_ENV="production', "GARRISON_ENV='production\"", "GARRISON_ENV: production", "set GARRISON_ENV=x"]
)
def test_a_line_of_the_file_that_cannot_be_read_is_never_passed_over(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"# GARRISON_ENV\nsomebody else's line\n\nOTHER=x\n{line}\nGARRISON_LEEWAY=5\n")
    found = problems(tmp_path, {})
    assert set(found) == {".env"}
    assert found[".env"].startswith("line 5 ")
    assert "production" not in found[".env"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\r\n", b"export "])
def test_the_first_line_of_the_file_counts_however_it_was_saved(start: bytes, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(start + b"GARRISON_AUDIENCE=tasks\r\nGARRISON_LEEWAY=5\r\n")
    assert (load(tmp_path).audience, load(tmp_path).leeway) == ("tasks", 5)


def test_nothing_in_the_file_is_expanded(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GARRISON_AUDIENCE=${HOME}-$HOME\n")
    assert load(tmp_path).audience == "${HOME}-$HOME"


def test_a_file_that_is_no_text_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"GARRISON_AUDIENCE=canary\xff\xfe\n")
    assert "canary" not in str(found := problems(tmp_path, {"LEEWAY": "soon"}))
    assert set(found) == {".env", "LEEWAY"}


def test_settings_made_in_code_read_neither_environment_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GARRISON_AUDIENCE", "environment")
    (tmp_path / ".env").write_text("GARRISON_LEEWAY=5\n")
    settings = Settings()
    assert (settings.audience, settings.leeway) == ("", 60)
    assert settings.env_is_set


def test_the_database_lies_in_the_directory_that_was_read(tmp_path: Path) -> None:
    assert load(tmp_path).store_address == tmp_path / "var" / "garrison.db"
    assert load(tmp_path, {"DATABASE_URL": "sqlite:////srv/x.db"}).store_address == Path("/srv/x.db")


def test_a_server_s_address_is_taken_as_it_is_and_its_password_is_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, {"DATABASE_URL": "postgresql://u:hidden-word@db:5433/garrison?sslmode=require"})
    assert settings.store_address == "postgresql://u:hidden-word@db:5433/garrison?sslmode=require"
    assert "hidden-word" not in repr(settings)
    assert shown(settings.store_address) == "postgresql://db:5433/garrison"


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = Settings()
    with pytest.raises(Exception, match="frozen"):
        settings.env = "production"  # type: ignore[misc]
