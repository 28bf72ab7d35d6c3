"""The page of the example: every line on it, copied into a shell, does what is written beside it."""

import html
import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.process.server import GARRISON, Server


@pytest.mark.skipif(not Path("/usr/bin/curl").exists(), reason="the page's lines need curl")
def test_the_lines_of_the_page_are_true_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "garrison").symlink_to(GARRISON)
    with Server(tmp_path) as server:
        page = httpx2.get(server.url).text
        lines = "".join(html.unescape(one) for one in re.findall(r"<pre>\n(.*?)</pre>", page, re.DOTALL))
        done = subprocess.run(
            ["sh"], input=lines, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    answers = re.findall(r"HTTP/1\.1 (\d+)", done.stdout)
    assert answers == ["200", "404", "404", "403", "200"], done.stdout + done.stderr
    assert done.stdout.count('"status":"accepted"') == 2
    assert done.stdout.count('"status":"complete"') == 2
    assert done.stdout.count("Buy a present for Bob") == 2
    assert re.search(r"ada@example\.com  \S+  admin member  active\n", done.stdout)
    assert "/docs" in page
    assert "/auth/openapi.json" in page
