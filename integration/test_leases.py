"""Leases on a real mongod: one holder by the server's clock, one publisher by the token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from keras_tl.storage.connection import Connection
from keras_tl.storage.leases import Lease, LeaseLost

PAST = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def db(mongodb: str, project: str) -> Iterator[Any]:
    made = Connection(mongodb, project=project)
    yield made.db
    made.close()


class Clock:
    """A monotonic clock in the test's hands."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 1000.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (result := condition()):
        assert time.monotonic() < deadline, "the server never came to the expected state"
        time.sleep(0.01)
    return result


def document(db: Any, key: str = "k") -> Any:
    return db["leases"].find_one({"_id": key})


def expire(db: Any) -> None:
    db["leases"].update_one({"_id": "k"}, {"$set": {"until": PAST}})


def await_renewal(db: Any) -> None:
    end = document(db)["until"]
    until(lambda: document(db)["until"] > end)


def zombie(db: Any, **options: Any) -> Lease:
    """A holder whose lease has ended without its knowing: its clock stands still."""
    lease = Lease(db, "k", clock=Clock(), **options)
    assert lease.acquire()
    expire(db)
    assert lease.held
    return lease


def publish(db: Any, lease: Lease, effect: str) -> None:
    """An effect and its fence in one transaction, as every publication does it."""

    def body(session: Any) -> None:
        db["runs"].insert_one(
            {"_id": effect, "name": "", "attempts": [], "state": "", "started": PAST},
            session=session,
        )
        lease.publish(session)

    with db.client.start_session() as session:
        session.with_transaction(body)


def effects(db: Any) -> list[str]:
    return sorted(run["_id"] for run in db["runs"].find())


def test_one_holder_at_a_time(db: Any) -> None:
    one, two, other = Lease(db, "k", owner="one"), Lease(db, "k"), Lease(db, "other")
    assert one.acquire() and other.acquire()
    assert not two.acquire() and not two.held
    assert (one.token, other.token) == (1, 1)
    found = document(db)
    assert found["owner"].startswith("one/") and found["token"] == 1
    one.release()
    assert not one.held
    assert two.acquire() and two.held and two.token == 2
    with pytest.raises(LeaseLost, match="must be acquired first"):
        Lease(db, "k").token  # noqa: B018


@pytest.mark.parametrize("made", [False, True])
def test_of_many_at_once_one_gets_it(db: Any, made: bool) -> None:
    if made:
        db["leases"].insert_one({"_id": "k", "token": 7})
    leases = [Lease(db, "k") for _ in range(8)]
    barrier = threading.Barrier(len(leases))
    got: list[Lease] = []

    def take(lease: Lease) -> None:
        barrier.wait()
        if lease.acquire():
            got.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert got[0].token == document(db)["token"] == (8 if made else 1)


@pytest.mark.parametrize(
    "left", [{"token": 5}, {"token": 5, "until": None}, {"token": 5, "until": PAST, "owner": "x"}]
)
def test_a_document_that_lacks_fields_is_a_free_lease(db: Any, left: dict[str, Any]) -> None:
    db["leases"].insert_one({"_id": "k", **left})
    lease = Lease(db, "k", owner="$token")
    assert lease.acquire() and lease.token == 6
    assert document(db)["owner"].startswith("$token/")  # text, not a path
    lease.renew()
    publish(db, lease, "a")
    assert document(db)["rev"] == 1


def test_takeover_behind_the_end_by_the_servers_clock(db: Any) -> None:
    fast = Clock(tick=1e6)
    dead, heir = Lease(db, "k", duration=2), Lease(db, "k", duration=30)
    assert dead.acquire()
    end = document(db)["until"]
    assert not Lease(db, "k", clock=fast).acquire()  # whatever the client's clock says
    assert heir.acquire(timeout=30)
    assert heir.token == dead.token + 1
    assert document(db)["until"] - timedelta(seconds=30) >= end
    assert not dead.held


def test_the_holder_stops_a_margin_before_the_end(db: Any) -> None:
    clock = Clock()
    lease = Lease(db, "k", duration=10, margin=2, clock=clock)
    assert lease.acquire()
    clock.now += 7.9
    assert lease.held
    lease.renew()
    clock.now += 7.9
    publish(db, lease, "a")
    clock.now += 0.2
    before = document(db)
    assert not lease.held
    for use in (lease.check, lease.renew, lambda: publish(db, lease, "b")):
        with pytest.raises(LeaseLost, match="'k' must be held.*Received: token=1"):
            use()
    assert document(db) == before and effects(db) == ["a"]
    assert lease.acquire() and lease.token == 2  # a new start, under a new token
    assert lease.held


def test_the_lease_counts_from_before_the_question(db: Any) -> None:
    db["leases"].insert_one({"_id": "k", "token": 0})
    clock = Clock(tick=1)  # every look at the clock costs a second
    lease = Lease(db, "k", duration=10, margin=2, clock=clock)
    assert lease.acquire()
    asked = 1002.0  # the first look is for the timeout
    clock.tick, clock.now = 0, asked + 7.9
    assert lease.held
    clock.now = asked + 8
    assert not lease.held


def test_an_answer_behind_the_end_is_no_lease(db: Any) -> None:
    assert not Lease(db, "k", duration=10, clock=Clock(tick=9)).acquire()


def test_a_zombie_publishes_nothing(db: Any) -> None:
    old, heir = zombie(db), Lease(db, "k")
    assert heir.acquire()
    with pytest.raises(LeaseLost):
        publish(db, old, "zombie")
    assert not old.held
    publish(db, heir, "heir")
    assert effects(db) == ["heir"]
    assert document(db)["rev"] == 1


def test_a_zombie_learns_it_on_renewal_and_releases_nothing(db: Any) -> None:
    old, heir = zombie(db), Lease(db, "k")
    assert heir.acquire()
    before = document(db)
    with pytest.raises(LeaseLost):
        old.renew()
    assert not old.held
    old.release()
    assert document(db) == before
    heir.renew()
    assert document(db)["until"] >= before["until"]


def test_a_late_holder_goes_on_where_nobody_took_over(db: Any) -> None:
    late = zombie(db)
    late.renew()
    assert document(db)["until"] > PAST
    publish(db, late, "late")
    assert effects(db) == ["late"]


def test_a_publication_conflicts_with_a_takeover_behind_its_snapshot(db: Any) -> None:
    old, heir = zombie(db), Lease(db, "k")
    with db.client.start_session() as session:
        with pytest.raises(OperationFailure) as failure, session.start_transaction():
            db["runs"].find_one({}, session=session)  # takes the snapshot
            assert heir.acquire()
            old.publish(session)
    assert failure.value.has_error_label("TransientTransactionError")

    taken: list[bool] = []

    def body(session: Any) -> None:
        db["runs"].find_one({}, session=session)
        if not taken:
            expire(db)
            taken.append(Lease(db, "k").acquire())
        heir.publish(session)

    with db.client.start_session() as session, pytest.raises(LeaseLost):
        session.with_transaction(body)  # tries again, and sees the successor
    assert taken == [True] and document(db)["token"] == 3
    assert "rev" not in document(db) or document(db)["rev"] == 0


@pytest.mark.parametrize("commits", [True, False])
def test_a_takeover_waits_for_a_publication(db: Any, commits: bool) -> None:
    old, heir = zombie(db), Lease(db, "k")
    seen: list[Any] = []

    def take() -> None:
        assert heir.acquire()
        seen.append(effects(db))

    successor = threading.Thread(target=take)

    def waiting() -> bool:
        wanted = {"ns": f"{db.name}.leases", "writeConflicts": {"$gt": 0}}
        return bool(db.client.admin.command({"currentOp": 1, **wanted})["inprog"])

    with db.client.start_session() as session:
        session.start_transaction()
        run = {"_id": "old", "name": "", "attempts": [], "state": "", "started": PAST}
        db["runs"].insert_one(run, session=session)
        old.publish(session)
        successor.start()
        until(waiting)
        assert not heir.held
        if commits:
            session.commit_transaction()
        else:
            session.abort_transaction()
    successor.join()
    assert heir.token == 2
    assert seen == [["old"] if commits else []]  # never a publication behind the takeover
    with pytest.raises(LeaseLost):
        publish(db, old, "later")


def test_publish_needs_a_transaction(db: Any) -> None:
    lease = Lease(db, "k")
    assert lease.acquire()
    with db.client.start_session() as session, pytest.raises(ValueError, match="`session`"):
        lease.publish(session)


def test_the_heartbeat_keeps_it_and_leaving_gives_it_back(db: Any) -> None:
    with Lease(db, "k", duration=3) as lease:
        await_renewal(db)
        await_renewal(db)
        assert lease.held and lease.token == document(db)["token"] == 1
        assert not Lease(db, "k").acquire()
    assert not lease.held
    assert not any(thread.name == "lease-k" for thread in threading.enumerate())
    assert Lease(db, "k").acquire()


def test_a_with_block_waits_for_a_dead_holder(db: Any) -> None:
    dead = Lease(db, "k", duration=0.3)
    assert dead.acquire()
    with Lease(db, "k", duration=5) as heir:
        assert heir.token == 2
    holder = Lease(db, "k", duration=30)
    assert holder.acquire()
    with pytest.raises(LeaseLost, match="'k' must be free"), Lease(db, "k", duration=0.1):
        pass
    assert document(db)["token"] == holder.token


def test_the_heartbeat_finds_a_takeover(db: Any) -> None:
    lost = threading.Event()
    with Lease(db, "k", duration=0.6, on_lost=lost.set) as lease:
        heir = {"$set": {"owner": "heir"}, "$inc": {"token": 1}}
        db["leases"].update_one({"_id": "k"}, heir)
        assert lost.wait(30)
        assert not lease.held
    assert document(db)["owner"] == "heir" and document(db)["token"] == 2


def test_without_a_server_the_holder_stops_by_its_own_clock(
    mongodb: str, project: str, db: Any
) -> None:
    cut = Connection(mongodb, project=project)
    lost = threading.Event()
    with Lease(cut.db, "k", duration=0.6, on_lost=lost.set) as lease:
        cut.client.close()  # every further operation fails
        assert lost.wait(30)
        assert not lease.held
    assert document(db)["token"] == 1
    assert Lease(db, "k").acquire(timeout=30)


def test_a_released_lease_is_not_reported_as_lost(db: Any) -> None:
    lost = threading.Event()
    with Lease(db, "k", duration=30, on_lost=lost.set) as lease:
        lease.release()
    assert not lost.is_set()


def test_writes_are_acknowledged_by_the_majority(db: Any) -> None:
    assert Lease(db, "k")._leases.write_concern.document == {"w": "majority"}


@pytest.mark.parametrize("margin", [0, -1, 10, 11])
def test_the_margin_is_checked(db: Any, margin: float) -> None:
    with pytest.raises(ValueError, match="`margin`"):
        Lease(db, "k", duration=10, margin=margin)
