"""`garrison serve`: the app behind its guard, on the edge of our own."""

import logging
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.apps import load_guarded
from garrison.cli.output import WRONG_USE, guarded, say
from garrison.core.errors import SettingsError
from garrison.core.network import is_loopback

if TYPE_CHECKING:
    from garrison.serve.settings import Settings

ALONE = "garrison.serve.alone:app"


def serve_command(
    target: Annotated[
        str | None, typer.Argument(metavar="MODULE:APP", help="The app; without: identity alone.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; else $PORT, else 8000.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port and the database.")] = 1,
) -> None:
    """Serve an app behind its guard. Without one, the identity server alone.

    \b
    Examples:
      garrison serve main:app
      GARRISON_ENV=production garrison serve main:app --host 0.0.0.0 --workers 4
      garrison serve --port 9000
    """
    guarded(lambda: _run(target or ALONE, host, port, workers))


def _run(target: str, host: str, wanted_port: int | None, workers: int) -> None:
    # Imported here: --help and --version need neither the server nor the database library.
    from garrison.serve.plans import inspect_app, own_path, refuse
    from garrison.serve.review import review_of
    from garrison.serve.server import serve
    from garrison.serve.settings import load_settings
    from garrison.serve.wiring import OWN_PATHS

    app, guard, _ = load_guarded(target)
    settings = guard.settings if guard.settings is not None else load_settings(port=wanted_port)
    port = wanted_port if wanted_port is not None else _environment_port()
    os.environ["PORT"] = str(port)  # the issuer of settings that are read later follows it
    _check_exposure(settings, host)
    configure_logs(settings)
    adapter = guard.adapter
    if adapter is not None:
        own_paths = [own_path(path, guard.prefix) for path in OWN_PATHS]
        inspected = inspect_app(adapter, guard.policy, own_paths, docs=settings.development)
        refuse(inspected, undecided_may_start=settings.undecided == "deny")
    settings.secrets()

    def ready() -> None:
        _banner(settings, app, host, port, guard.prefix)
        for note in review_of(settings).notes:
            say(f"  note: {note}")

    code = serve(app, host=host, port=port, workers=workers, ready=ready, drain_s=settings.drain)
    if code:
        raise typer.Exit(code)


def _check_exposure(settings: "Settings", host: str) -> None:
    if is_loopback(host) or host == "localhost":
        return
    if not settings.env_is_set:
        say(
            f"garrison serve: {host} reaches beyond this machine, and nobody said which environment this is: set "
            "GARRISON_ENV=production (or development together with GARRISON_DEV_EXPOSE=1)."
        )
        raise typer.Exit(WRONG_USE)
    if settings.development and not settings.dev_expose:
        say(f"garrison serve: {host} reaches beyond this machine; in development that needs GARRISON_DEV_EXPOSE=1.")
        raise typer.Exit(WRONG_USE)


def _environment_port() -> int:
    """Return `PORT`, 8000 where it is absent or empty. Raises SettingsError."""
    text = os.environ.get("PORT", "") or "8000"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise SettingsError([("PORT", "write a port number, 1 to 65535")])
    return int(text)


def _banner(settings: "Settings", app: Any, host: str, port: int, prefix: str) -> None:
    from garrison.store.opening import shown

    where = f"[{host}]" if ":" in host else host
    seen = f"http://{where}:{port}" if settings.development else settings.issuer_url.rstrip("/")  # other hosts: 400
    docs = getattr(app, "docs_url", None) if settings.development else None  # FastAPI's; absent in production
    say(
        f"\n  Garrison serves http://{where}:{port}   ({settings.env})\n"
        f"  Data       {shown(settings.store_address)}\n"
        f"  Admin      sign up, then: {_command()} account set-role EMAIL admin\n"
        + (f"  Docs       http://{where}:{port}{docs}\n" if docs else "")
        + f"  Identity   {seen}{prefix}/auth/openapi.json\n"
    )


def _command() -> str:
    """Return how any shell in the current directory calls this command, one without our environment, too."""
    here, called = os.getcwd() + os.sep, os.path.abspath(sys.argv[0])
    in_venv = sys.prefix != sys.base_prefix
    if os.path.basename(called) != "garrison" or (not in_venv and shutil.which("garrison") == called):
        return "garrison"
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", called.removeprefix(here))


def configure_logs(settings: "Settings") -> None:
    """Structured logs on stderr: readable in development, one JSON document a line in production.

    What the server and libraries say through `logging` takes the same form. An app that configured structlog when it
    was imported keeps its own.
    """
    import structlog  # commands that log nothing do not need it

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if settings.development
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # text, so that no renderer prints the values of local variables
    ]
    if not structlog.is_configured():
        structlog.configure(
            processors=[*shared, renderer],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING))
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: record.funcName != "run_asgi"
    )  # told by the guard, once
