"""What the store's own tables keep, on every store: log, audit, counters, leases, sweeps, the mark of SECRET."""

import asyncio
import functools
import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from garrison.core.durations import Limit
from garrison.core.errors import GarrisonError
from garrison.core.events import Event
from garrison.core.sealing import Sealer
from garrison.store import audit, counters, leases, log
from garrison.store.database import Database
from garrison.store.secret_check import check_secret
from garrison.store.sweeper import DAY_S, Sweep, store_sweeps, sweep_batch
from tests.store.conftest import OpenStore

NOW = 1_800_000_000.0
FIVE = Limit(5, 900)


class CountersContract:
    async def test_as_many_as_the_limit_come_at_once_and_then_one_for_each_interval(self, store: Database) -> None:
        async def take(now: float) -> counters.Taken:
            return await store.write(lambda connection: counters.take(connection, [(b"k", FIVE)], now))

        assert [(await take(NOW)).admitted for _ in range(6)] == [True] * 5 + [False]
        assert await take(NOW) == (False, 180.0)
        assert await take(NOW + 179) == (False, 1.0)
        assert (await take(NOW + 180)).admitted
        assert not (await take(NOW + 180)).admitted
        assert [(await take(NOW + 2000)).admitted for _ in range(6)] == [True] * 5 + [False]

    async def test_all_or_nothing_over_all_keys(self, store: Database) -> None:
        one, other = (b"one", Limit(1, 60)), (b"other", Limit(3, 60))

        async def take(*wanted: counters.Wanted) -> counters.Taken:
            return await store.write(lambda connection: counters.take(connection, wanted, NOW))

        assert (await take(one, other)).admitted
        for _ in range(5):
            assert await take(other, one) == (False, 60.0)
        assert [(await take(other)).admitted for _ in range(3)] == [True, True, False]

    async def test_a_key_that_is_wanted_twice_needs_room_for_two(self, store: Database) -> None:
        def work(connection: Connection) -> list[bool]:
            wanted = [(b"k", Limit(3, 60))] * 2
            return [counters.take(connection, wanted, NOW).admitted for _ in range(2)] + [
                counters.take(connection, wanted[:1], NOW).admitted for _ in range(2)
            ]

        assert await store.write(work) == [True, False, True, False]

    async def test_of_many_at_once_exactly_the_limit_is_admitted(self, open_store: OpenStore) -> None:
        stores = [open_store(), open_store()]

        def work(connection: Connection) -> bool:
            return counters.take(connection, [(b"account", FIVE), (b"address", Limit(50, 900))], NOW).admitted

        taken = await asyncio.gather(*(stores[n % 2].write(work) for n in range(40)))
        assert taken.count(True) == 5

    def test_never_over_admits_and_never_refuses_without_need(self, store: Database) -> None:
        """Against the definition in exact fractions: any times, several keys, hits given back in between."""
        limits = st.builds(Limit, st.integers(1, 7), st.integers(1, 100).map(float))
        keys = st.frozensets(st.integers(0, 2), min_size=1)
        steps = st.lists(st.tuples(st.integers(0, 40), keys, st.booleans()), max_size=30)
        example = 0

        @settings(max_examples=80, deadline=None)
        @given(st.lists(limits, min_size=3, max_size=3), steps)
        def holds(limits: list[Limit], steps: list[tuple[int, frozenset[int], bool]]) -> None:
            nonlocal example
            example += 1
            names = [f"{example}/{number}".encode() for number in range(3)]

            def scenario(connection: Connection) -> None:
                now, tats = Fraction(int(NOW)), [Fraction(0)] * 3
                admitted: list[list[Fraction]] = [[], [], []]
                for seconds, numbers, gives_back in steps:
                    now += seconds
                    wanted = [(names[number], limits[number]) for number in numbers]
                    later = {n: max(tats[n], now) + _interval(limits[n]) for n in numbers}
                    fits = all(later[n] <= now + Fraction(limits[n].period_s) for n in numbers)
                    taken = counters.take(connection, wanted, float(now))
                    assert taken.admitted == fits
                    assert (taken.retry_after_s > 0) == (not fits)
                    if fits and gives_back:
                        counters.give_back(connection, wanted, float(now))
                    elif fits:
                        for n in numbers:
                            tats[n] = later[n]
                            admitted[n].append(now)
                for limit, times in zip(limits, admitted, strict=True):
                    for first in range(len(times)):
                        for last in range(first, len(times)):
                            most = limit.count + (times[last] - times[first]) / _interval(limit)
                            assert last - first + 1 <= most

            asyncio.run(store.write(scenario))

        holds()

    async def test_a_hit_given_back_was_never_counted_and_nothing_can_be_saved_up(self, store: Database) -> None:
        def work(connection: Connection) -> list[bool]:
            wanted = [(b"k", FIVE)]
            for number in range(100):
                assert counters.take(connection, wanted, NOW + number).admitted
                counters.give_back(connection, wanted, NOW + number + 0.5)
            for _ in range(20):
                counters.give_back(connection, wanted, NOW + 100)
            counters.give_back(connection, [(b"never taken", FIVE)], NOW)
            return [counters.take(connection, wanted, NOW + 100).admitted for _ in range(6)]

        assert await store.write(work) == [True] * 5 + [False]

    async def test_a_clock_set_back_locks_no_longer_than_it_was_set_back(self, store: Database) -> None:
        def work(connection: Connection) -> None:
            for _ in range(5):
                counters.take(connection, [(b"k", FIVE)], NOW)
            assert not counters.take(connection, [(b"k", FIVE)], NOW - 3600).admitted
            assert counters.take(connection, [(b"k", FIVE)], NOW + 180).admitted

        await store.write(work)

    async def test_a_delay_begins_after_the_burst_grows_and_is_capped(self, store: Database) -> None:
        def work(connection: Connection) -> list[float]:
            return [counters.delay(connection, b"k", Limit(3, 30), NOW, max_s=25.0) for _ in range(8)]

        assert await store.write(work) == [0, 0, 0, 10, 20, 25, 25, 25]

    async def test_a_delay_far_shorter_than_the_interval_is_one_all_the_same(self, store: Database) -> None:
        def work(connection: Connection) -> list[float]:
            return [counters.delay(connection, b"k", Limit(3, 900), NOW, max_s=0.125) for _ in range(6)]

        assert await store.write(work) == [0, 0, 0, 0.125, 0.125, 0.125]

    async def test_an_attack_however_long_is_forgotten_after_the_longest_delay_and_one_period(
        self, store: Database
    ) -> None:
        limit = Limit(3, 30)

        def work(connection: Connection) -> list[float]:
            for _ in range(500):
                assert counters.delay(connection, b"k", limit, NOW, max_s=25.0) <= 25
            assert counters.delay(connection, b"k", limit, NOW + 15, max_s=25.0) == pytest.approx(20)
            return [counters.delay(connection, b"k", limit, NOW + 15 + 25 + 30, max_s=25.0) for _ in range(4)]

        assert await store.write(work) == [0, 0, 0, 10]

    async def test_a_hit_given_back_shortens_the_delay(self, store: Database) -> None:
        def work(connection: Connection) -> list[float]:
            limit, waits = Limit(3, 30), []
            for _ in range(5):
                waits.append(counters.delay(connection, b"k", limit, NOW, max_s=25.0))
                if len(waits) > 3:
                    counters.give_back(connection, [(b"k", limit)], NOW)
            return waits

        assert await store.write(work) == [0, 0, 0, 10, 10]


def _interval(limit: Limit) -> Fraction:
    return Fraction(limit.period_s) / limit.count


class TablesContract:
    async def test_the_log_tells_what_came_after_a_position(self, store: Database) -> None:
        def work(connection: Connection) -> None:
            assert log.last_position(connection) == 0
            for number in range(5):
                log.append(connection, "session", f"ses_{number}", number + 7, NOW)
            rows = log.read_after(connection, 0, 100)
            assert [(row.kind, row.subject, row.version) for row in rows] == [
                ("session", f"ses_{number}", number + 7) for number in range(5)
            ]
            assert log.read_after(connection, rows[1].position, 2) == rows[2:4]
            assert log.last_position(connection) == rows[-1].position
            assert log.read_after(connection, rows[-1].position, 100) == []

        await store.write(work)

    async def test_positions_are_never_used_again_even_when_all_was_swept(self, store: Database) -> None:
        def append(connection: Connection) -> int:
            log.append(connection, "session", "ses_1", 1, NOW)
            return log.last_position(connection)

        before = await store.write(append)
        assert await store.write(lambda connection: sweep_batch(connection, store_sweeps(), NOW + 2 * DAY_S)) == 1
        assert await store.write(append) > before

    async def test_events_are_found_newest_first_by_subject_and_kind(self, store: Database) -> None:
        def work(connection: Connection) -> None:
            for number in range(6):
                event = Event(
                    "session.created" if number % 2 else "account.created",
                    actor="acc_1",
                    subject=f"s{number % 3}",
                    network="192.0.2.0/24",
                    route="POST /auth/sign-in",
                    request_id="r",
                    data={"number": number, "after": ["ü"]},
                )
                assert audit.record(connection, event, NOW + number).startswith("evt_")

        await store.write(work)
        rows = await store.read(audit.list_events)
        assert [json.loads(row.data)["number"] for row in rows] == [5, 4, 3, 2, 1, 0]
        assert rows[0][1:] == (
            *(NOW + 5, "session.created", "acc_1", "s2", "192.0.2.0/24", "POST /auth/sign-in", "r"),
            '{"number":5,"after":["\\u00fc"]}',
        )
        assert len({row.id for row in rows}) == 6
        for arguments, expected in [
            ({"subject": "s1"}, [4, 1]),
            ({"kind": "account.created"}, [4, 2, 0]),
            ({"subject": "s1", "kind": "account.created"}, [4]),
            ({"subject": "none"}, []),
            ({"limit": 2}, [5, 4]),
        ]:

            def find(connection: Connection, arguments: dict[str, object] = arguments) -> list[int]:  # type: ignore[assignment]
                found = audit.list_events(connection, **arguments)  # type: ignore[arg-type]
                return [json.loads(row.data)["number"] for row in found]

            assert await store.read(find) == expected

    async def test_an_event_is_not_there_without_its_change(self, store: Database) -> None:
        def work(connection: Connection) -> None:
            audit.record(connection, Event("x"), NOW)
            raise GarrisonError("changed_my_mind")

        with pytest.raises(GarrisonError):
            await store.write(work)
        assert await store.read(audit.list_events) == []

    async def test_refusals_add_up_over_processes_and_the_overflow_is_counted(self, open_store: OpenStore) -> None:
        counts = {("forbidden", "acc_1", "GET /a", 1): 3, ("rate_limited", "192.0.2.0/24", "", 1): 5}
        stores = [open_store(), open_store()]
        await asyncio.gather(
            *(
                stores[n % 2].write(lambda connection: audit.record_refusals(connection, counts, 2, NOW))
                for n in range(10)
            )
        )
        await stores[0].write(lambda connection: audit.record_refusals(connection, {}, 0, NOW))
        assert await stores[0].read(_refusals) == {
            ("forbidden", "acc_1", "GET /a", 1): 30,
            ("rate_limited", "192.0.2.0/24", "", 1): 50,
            ("overflow", "", "", 30_000_000): 20,
        }

    async def test_odd_text_from_outside_keeps_nothing_from_being_written(self, store: Database) -> None:
        odd = "\ud800\x00" + "x" * 5000

        def work(connection: Connection) -> None:
            audit.record(connection, Event("x", actor=odd, network=odd, request_id=odd), NOW)
            audit.record_refusals(connection, {("a", odd, "r", 1): 1, ("a", odd + "y", "r", 1): 2}, 0, NOW)

        await store.write(work)
        [row] = await store.read(audit.list_events)
        assert row.actor.startswith("\\ud800\\x00xxx")
        assert len(row.actor) < 300
        assert list((await store.read(_refusals)).values()) == [3]

    async def test_one_of_many_has_the_lease_until_it_stops_renewing(self, open_store: OpenStore) -> None:
        stores = [open_store(), open_store()]

        async def take(holder: str, now: float) -> bool:
            return await stores[len(holder) % 2].write(
                lambda connection: leases.take(connection, "sweeper", holder, now=now, ttl_s=30)
            )

        holders = ["h" * number for number in range(1, 21)]
        taken = await asyncio.gather(*(take(holder, NOW) for holder in holders))
        assert taken.count(True) == 1
        holder = holders[taken.index(True)]
        other = next(one for one in holders if one != holder)
        assert await take(holder, NOW + 20)
        assert not await take(other, NOW + 49.9)
        assert await take(other, NOW + 50)
        assert not await take(holder, NOW + 50)

    async def test_a_lease_is_given_up_only_by_its_holder(self, store: Database) -> None:
        def work(connection: Connection) -> list[bool]:
            return [
                leases.take(connection, "a", "one", now=NOW, ttl_s=30),
                leases.release(connection, "a", "two"),
                leases.take(connection, "a", "two", now=NOW, ttl_s=30),
                leases.release(connection, "a", "one"),
                leases.release(connection, "a", "one"),
                leases.take(connection, "a", "two", now=NOW, ttl_s=30),
                leases.take(connection, "b", "one", now=NOW, ttl_s=30),
            ]

        assert await store.write(work) == [True, False, False, True, False, True, True]

    async def test_sweeps_are_bounded_and_take_only_what_has_expired(self, store: Database) -> None:
        def fill(connection: Connection) -> None:
            for number in range(20):
                counters.take(connection, [(bytes([number]), Limit(1, 60))], NOW + number)
                leases.take(connection, str(number), "h", now=NOW + number, ttl_s=60)

        await store.write(fill)
        sweeps = (Sweep(leases.leases, "expires_at", keep_s=10), *store_sweeps())

        def sweep(connection: Connection) -> int:
            return sweep_batch(connection, sweeps, NOW + 60 + 14, batch=6)

        assert [await store.write(sweep) for _ in range(5)] == [6, 6, 6, 2, 0]

        def left(connection: Connection) -> tuple[list[bytes], int]:
            keys = list(connection.execute(select(counters.counters.c.key)).scalars())
            return sorted(keys), len(connection.execute(select(leases.leases)).all())

        assert await store.read(left) == ([bytes([number]) for number in range(15, 20)], 15)

    async def test_audit_and_log_are_kept_for_their_time(self, store: Database) -> None:
        def fill(connection: Connection) -> None:
            for day in range(10):
                now = NOW + day * DAY_S
                audit.record(connection, Event("x"), now)
                log.append(connection, "account", "a", day, now)
                audit.record_refusals(connection, {("a", "b", "c", int(now // 60)): 1}, 0, now)

        await store.write(fill)
        sweeps = store_sweeps(events_keep_s=5 * DAY_S, refusals_keep_s=3 * DAY_S)
        await store.write(lambda connection: sweep_batch(connection, sweeps, NOW + 9.5 * DAY_S))
        assert len(await store.read(audit.list_events)) == 5
        assert len(await store.read(_refusals)) == 3
        assert [row.version for row in await store.read(lambda connection: log.read_after(connection, 0, 99))] == [9]

    async def test_another_secret_is_an_error_with_a_name_and_changes_nothing(self, store: Database) -> None:
        ours, theirs = Sealer([b"a" * 32]), Sealer([b"b" * 32])
        for _ in range(2):
            await store.write(lambda connection: check_secret(connection, ours))
        for _ in range(2):
            with pytest.raises(GarrisonError) as refused:
                await store.write(lambda connection: check_secret(connection, theirs))
            assert refused.value.code == "wrong_secret"
            assert "GARRISON_SECRET" in str(refused.value)
        await store.write(lambda connection: check_secret(connection, ours))

    async def test_a_secret_is_changed_by_listing_both_and_the_old_one_can_go_afterwards(self, store: Database) -> None:
        old, new = b"a" * 32, b"b" * 32
        for secrets in ([old], [new, old], [new], [new, old]):
            await store.write(functools.partial(check_secret, sealer=Sealer(secrets)))
        with pytest.raises(GarrisonError):
            await store.write(lambda connection: check_secret(connection, Sealer([old])))

    async def test_of_many_first_starts_under_two_secrets_one_secret_wins(self, open_store: OpenStore) -> None:
        stores = [open_store(), open_store()]
        sealers = [Sealer([b"a" * 32]), Sealer([b"b" * 32])]
        results = await asyncio.gather(
            *(stores[n % 2].write(functools.partial(check_secret, sealer=sealers[n % 2])) for n in range(20)),
            return_exceptions=True,
        )
        assert [isinstance(result, GarrisonError) for result in results].count(True) == 10


def _refusals(connection: Connection) -> dict[tuple[str, str, str, int], int]:
    return {(row[0], row[1], row[2], row[3]): row[4] for row in connection.execute(select(audit.refusals))}
