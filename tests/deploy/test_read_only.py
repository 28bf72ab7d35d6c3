"""A node needs to write nothing: it serves where every file system is read-only, but for a /tmp of its own."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.nodes import Nodes, program
from tests.process.server import sign_in, sign_up

pytestmark = pytest.mark.alone
READ_ONLY = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=16m tmpfs "$TMPDIR"
while read -r _ at kind _; do
    case "$kind $at" in
        proc\\ *|sysfs\\ *|cgroup*|devpts\\ *|mqueue\\ *|*" $TMPDIR") ;;
        *) mount -o remount,bind,ro "$(printf '%b' "$at")" 2>/dev/null || : ;;
    esac
done < /proc/self/mounts
for place in / . "$HOME" /var/tmp; do
    if touch "$place/written" 2>/dev/null; then echo "$place can be written" >&2; exit 3; fi
done
exec "$@"
"""


def test_a_node_serves_where_nothing_can_be_written(nodes: Nodes) -> None:
    own = nodes.directory / "tmp"
    own.mkdir()
    unshare = [program("unshare"), "--mount", "sh", "-c", READ_ONLY, "read-only"]
    environment = {**os.environ, "TMPDIR": str(own)}
    if subprocess.run([*unshare, "true"], env=environment, cwd=nodes.directory, check=False).returncode:
        pytest.skip("no mount namespace to be had here: it takes root")
    node = nodes.make("readonly", {"TMPDIR": str(own)})
    node.before = tuple(unshare)
    try:
        node.start()
        client = node.direct(nodes.host)
        sign_up(client, "readonly@example.com")
        token = sign_in(client, "readonly@example.com", deliver="token").json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        assert client.post("/tasks", json={"title": "Buy milk"}, headers=headers).status_code == 201
        assert client.get("/tasks", headers=headers).json()[0]["title"] == "Buy milk"
        assert node.terminate() == 0
        assert "Read-only" not in node.log.read_text()
        assert written_since_start(node.directory) - {".env"} == {"nodes_app.py", "server.log"}
    finally:
        node.stop()
        del nodes.nodes["readonly"]


def written_since_start(directory: Path) -> set[str]:
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if "__pycache__" not in file.parts}
