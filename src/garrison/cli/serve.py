"""`garrison serve`: the app behind its guard, on the edge of our own."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from garrison.cli.apps import load_guarded
from garrison.cli.output import WRONG_USE, guarded, say
from garrison.core.network import is_loopback

if TYPE_CHECKING:
    from garrison.serve.settings import Settings

ALONE = "garrison.serve.alone:app"


def serve_command(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODULE:APP]", help="The app; without: identity alone.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; else $PORT, else 8000.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port and the database.")] = 1,
) -> None:
    """Serve an app behind its guard.

    Examples:

      garrison serve main:app

      garrison serve main:app --host 0.0.0.0 --workers 4      (with GARRISON_ENV=production and its settings)

      garrison serve --port 9000      (the identity server alone)
    """
    chosen = port if port is not None else _environment_port()
    os.environ["PORT"] = str(chosen)
    guarded(lambda: _run(target or ALONE, host, chosen, workers))


def _run(target: str, host: str, port: int, workers: int) -> None:
    # Imported here: --help and --version need neither the server nor the database library.
    from garrison.serve.plans import inspect_app, own_path, refuse
    from garrison.serve.server import serve
    from garrison.serve.settings import load_settings
    from garrison.serve.wiring import OWN_PATHS

    settings = load_settings(port=port)
    _check_exposure(settings, host)
    configure_logs(settings)
    app, guard = load_guarded(target)
    adapter = guard.adapter
    if adapter is not None:
        own_paths = [own_path(path, guard.prefix) for path in OWN_PATHS]
        inspected = inspect_app(adapter, guard.policy, own_paths, docs=settings.development)
        refuse(inspected, undecided_may_start=settings.undecided == "deny")
    settings.secrets()
    code = serve(app, host=host, port=port, workers=workers, ready=lambda: _banner(settings, host, port))
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
    text = os.environ.get("PORT", "")
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 65_536 else 8000


def _banner(settings: "Settings", host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    say(
        f"\n  Garrison serves http://{shown}:{port}   ({settings.env})\n"
        f"  Data       {settings.database_path.absolute().parent}\n"
        f"  Admin      sign up, then: {_command()} account set-role EMAIL admin\n"
        f"  Identity   http://{shown}:{port}/auth/openapi.json\n"
    )


def _command() -> str:
    """Return how this command is called from the current directory."""
    here, called = os.getcwd() + os.sep, os.path.abspath(sys.argv[0])
    return called.removeprefix(here) if called.startswith(here) else "garrison"


def configure_logs(settings: "Settings") -> None:
    """Structured logs on stderr: readable in development, JSON lines in production."""
    import structlog  # commands that log nothing do not need it

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if settings.development
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: record.funcName != "run_asgi"
    )  # told by the guard, once
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s: %(message)s"
    )
