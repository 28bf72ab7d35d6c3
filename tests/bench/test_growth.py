"""The measurement of growth works: it seeds what it is told, does every kind of work, and leaves nothing behind."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from bench import growth, seed
from bench.growth import KINDS
from bench.seed import Population


def run(main: Callable[[Sequence[str]], int], *arguments: object) -> int:
    return main([str(one) for one in arguments])


def test_a_small_run_does_every_kind_of_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--small", 200, "--accounts", 400, "--rounds", 1, "--count", 3, "--directory", tmp_path)
    assert run(growth.main, "--stores", "sqlite", *few, "--json") == 0
    [report] = json.loads(capsys.readouterr().out)["stores"]
    assert [line["name"] for line in report["lines"]] == [kind.name for kind in KINDS]
    assert all(line["small_us"] > 0 and line["large_us"] > 0 for line in report["lines"])
    assert report["statements"] > 100
    assert report["scans"] == []
    assert list(tmp_path.iterdir()) == []


def test_one_seed_makes_the_same_rows_and_another_others() -> None:
    def first(people: Population) -> dict[str, list[tuple[object, ...]]]:
        return {one.table.name: list(islice(one.rows(), 20)) for one in people.fill()}

    here, again = (first(Population("spring", 300, 300, 30, now=1.8e9)) for _ in range(2))
    other = first(Population("autumn", 300, 300, 30, now=1.8e9))
    assert here == again
    assert all(here[name] != other[name] for name in here)


def test_the_families_and_the_cookies_are_all_the_sessions() -> None:
    for sessions in (0, 1, 4, 5, 8, 13):
        people = Population("spring", 10, sessions, 0, now=1.8e9)
        cookies = [people.cookie_session(n) for n in range(people.cookie_sessions())]
        families = [people.family(n) for n in range(people.families())]
        assert sorted(cookies + families) == list(range(sessions))


def test_seeding_tells_its_seed_and_leaves_a_database_with_accounts_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    assert run(seed.main, url, "--accounts", 50, "--seed", "spring") == 0
    assert capsys.readouterr().out.startswith("--seed spring --now ")
    assert run(seed.main, url, "--accounts", 50) == 2
    assert "50 accounts" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "x.db") as driver:
        assert driver.execute("SELECT count(*) FROM accounts").fetchone() == (50,)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for script, main in (("seed.py", seed.main), ("growth.py", growth.main)):
        with pytest.raises(SystemExit):
            run(main, "--help")
        assert f"python bench/{script} " in capsys.readouterr().out.partition("examples:")[2]


def test_what_cannot_be_is_wrong_use(tmp_path: Path) -> None:
    assert run(seed.main, f"sqlite:///{tmp_path / 'x.db'}", "--accounts", 0) == 2
    assert run(seed.main, "mysql://root@127.0.0.1/x") == 2
    assert run(growth.main, "--accounts", 10) == 2
