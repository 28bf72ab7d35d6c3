"""Make `.venv` with everything pinned by hash, and the project in it: what `make setup` runs.

Standard library only, and readable by any Python 3.6, so that a machine that is too old gets a sentence and not a
syntax error. A stamp in `.venv` holds a digest of all that the result depends on: while it fits, nothing is done.
Two set-ups at once wait for each other (a lock on this very file). Nothing outside `.venv` is changed but the
download caches of pip and uv.

    1. python -m venv .venv         without pip in it: unpacking pip there took 5 of 13 seconds
    2. pip installs uv              requirements/uv.txt, hashes required, wheels only; the pip that Python brings
    3. uv installs the rest         requirements/dev.txt, hashes required, wheels only; pip where uv cannot
    4. the project, editable        no dependencies, no build isolation (hatchling is among the pins)

It does not choose versions: `make lock` does.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "garrison-setup"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
COMMAND = VENV / "bin" / "garrison"
PINS = "requirements/dev.txt"
UV_PINS = "requirements/uv.txt"
INPUTS = (PINS, UV_PINS, "requirements/install.py", "pyproject.toml")
OLDEST = (3, 11)
NEWER_NAMES = ("python3.13", "python3.12", "python3.11", "python3.14")
PINNED = ("--require-hashes", "--only-binary", ":all:")


class SetupError(Exception):
    """Set-up cannot go on; the text is the one sentence the caller sees."""


def main() -> int:
    """Set up and return the exit code."""
    try:
        if sys.version_info[:2] < OLDEST:
            _hand_over()
        with Path(__file__).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_current():
                _set_up()
    except SetupError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 2
    return 0


def is_current() -> bool:
    """Say whether `.venv` is what the pins, this interpreter and this directory ask for."""
    try:
        return STAMP.read_text() == _wanted() and COMMAND.exists()
    except OSError:
        return False


def _wanted() -> str:
    """The digest covers the directory too: a virtual environment that was moved does not work."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _hand_over() -> None:
    """Go on under a newer Python of this machine, or say what is missing."""
    for name in NEWER_NAMES:
        found = shutil.which(name)
        if found is not None and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(found, [found, __file__])
    found_version = ".".join(str(part) for part in sys.version_info[:3])
    raise SetupError(
        f"Garrison needs Python {OLDEST[0]}.{OLDEST[1]} or newer, and {sys.executable} is {found_version}: "
        "install a newer one, or name it, as in `make setup PYTHON=/path/to/python3.11`."
    )


def _set_up() -> None:
    started = time.monotonic()
    print(f"Setting up .venv with the {PINS} pins …", file=sys.stderr, flush=True)
    STAMP.unlink(missing_ok=True)
    pip = [str(PYTHON), f"{_pip_wheel()}/pip", "--disable-pip-version-check", "-qq", "install", "--no-deps"]
    if not _works():
        base = getattr(sys, "_base_executable", None) or sys.executable
        _run([base, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    if not _has_pinned_uv():
        _run([*pip, *PINNED, "-r", UV_PINS], may_fail=True)
    to_venv = ["--quiet", "--python", str(PYTHON)]
    if not (UV.exists() and _run([str(UV), "pip", "sync", *to_venv, *PINNED, PINS, UV_PINS], may_fail=True)):
        print("uv could not install the pins; pip tries (slower) …", file=sys.stderr, flush=True)
        _run([*pip, *PINNED, "-r", PINS])
    install = [str(UV), "pip", "install", *to_venv, "--offline", "--no-deps"] if UV.exists() else [*pip, "--no-index"]
    _run([*install, "--no-build-isolation", "--editable", "."])
    STAMP.write_text(_wanted())
    print(f"Set up in {time.monotonic() - started:.1f} s.", file=sys.stderr, flush=True)


def _works() -> bool:
    """Say whether `.venv` is there and made by a Python that still exists, of this very version."""
    if not PYTHON.exists():
        return False
    check = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    return subprocess.call([str(PYTHON), "-c", check], stderr=subprocess.DEVNULL, env=_environment()) == 0


def _pip_wheel() -> Path:
    """Return the pip that this Python brings for its virtual environments; pip runs out of the wheel itself."""
    try:
        import ensurepip  # Debian ships it apart, with venv: that is what is asked here
        import venv  # noqa: F401
    except ImportError:
        places = []
    else:
        places = [sysconfig.get_config_var("WHEEL_PKG_DIR"), str(Path(ensurepip.__file__).with_name("_bundled"))]
    wheels = [wheel for place in places if place for wheel in sorted(Path(place).glob("pip-*.whl"))]
    if not wheels:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"{sys.executable} lacks the venv module: install it (on Debian and Ubuntu: `apt install "
            f"python{version}-venv`, or `make system`), then run `make setup` again."
        )
    return wheels[-1]


def _has_pinned_uv() -> bool:
    """Say whether the uv in `.venv` is the pinned one."""
    if not UV.exists():
        return False
    pinned = next(line.split()[0] for line in (ROOT / UV_PINS).read_text().splitlines() if line.startswith("uv=="))
    try:
        said = subprocess.run([str(UV), "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
    except OSError:
        return False
    return said.split()[1:2] == [pinned[len("uv==") :]]


def _environment() -> "dict[str, str]":
    """The caller's environment, without what would send packages elsewhere than into `.venv`."""
    away = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON"}
    environment = {name: value for name, value in os.environ.items() if name not in away}
    environment["PIP_USER"] = "0"
    if "PIP_INDEX_URL" in environment:
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    if "PIP_CERT" in environment:
        environment.setdefault("SSL_CERT_FILE", environment["PIP_CERT"])
    return environment


def _run(command: "list[str]", may_fail: bool = False) -> bool:
    """Run a step in the project's directory; its errors are the caller's to read. Raises SetupError unless allowed."""
    done = subprocess.call(command, cwd=str(ROOT), env=_environment()) == 0
    if not done and not may_fail:
        raise SetupError(
            f"this step failed, for the reason above: `{' '.join(command)}`. Mend that (without the network, point pip "
            "and uv at a package index you reach), then run `make setup` again."
        )
    return done


if __name__ == "__main__":
    sys.exit(main())
