"""The order of records, and what is decided by the clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keras_tl.streams.merge import Merge


def drain(merge: Merge[str]) -> list[str]:
    taken = []
    while (found := merge.next()) is not None:
        taken.append(found[1])
    return taken


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


logs = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@given(logs, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_when_records_arrive(
    lengths: list[int], random: object
) -> None:
    def run(shuffled: bool) -> list[str]:
        clock = Clock()
        merge: Merge[str] = Merge(range(len(lengths)), clock=clock)
        queues = {p: [f"{p}.{i}" for i in range(n)] for p, n in enumerate(lengths)}
        arrivals = [p for p, queue in queues.items() for _ in queue]
        if shuffled:
            random.shuffle(arrivals)  # type: ignore[attr-defined]
        taken: list[str] = []
        for p in arrivals:
            merge.offer(p, queues[p].pop(0))
            taken += drain(merge)
        for p in range(len(lengths)):
            merge.finish(p)
        return taken + drain(merge)

    assert run(shuffled=True) == run(shuffled=False)


def test_partitions_take_turns() -> None:
    merge: Merge[str] = Merge([0, 1, 2])
    for p, names in enumerate(["ad", "be", "cf"]):
        for name in names:
            merge.offer(p, name)
    assert "".join(drain(merge)) == "abcdef"


def test_an_empty_partition_holds_the_others_only_for_its_time() -> None:
    clock = Clock()
    merge: Merge[str] = Merge([0, 1], idle_timeout=2.0, clock=clock)
    for name in "abc":
        merge.offer(0, name)
    assert drain(merge) == ["a"]
    clock.now = 1.9
    assert drain(merge) == []
    clock.now = 2.0
    assert drain(merge) == ["b", "c"]
    assert merge.active == (0,)
    merge.offer(1, "B")
    merge.offer(0, "d")
    assert drain(merge) == ["B", "d"]
    assert merge.schedule[2:] == [(1, "leave", 1), (3, "join", 1)]


def test_a_partition_that_the_broker_did_not_answer_for_is_waited_for_longer() -> None:
    clock = Clock()
    merge: Merge[str] = Merge([0, 1], idle_timeout=1.0, at_end=lambda p: False, clock=clock)
    for name in "ab":
        merge.offer(0, name)
    assert drain(merge) == ["a"]
    clock.now = 9.9
    assert drain(merge) == []
    clock.now = 10.0
    assert drain(merge) == ["b"]


def test_nobody_leaves_while_all_are_empty() -> None:
    clock = Clock()
    merge: Merge[str] = Merge([0, 1], idle_timeout=1.0, clock=clock)
    assert drain(merge) == []
    clock.now = 100.0
    assert drain(merge) == []
    assert merge.active == (0, 1)


def test_a_new_partition_joins_when_it_has_data() -> None:
    merge: Merge[str] = Merge([0])
    merge.offer(0, "a")
    merge.add(1)
    assert drain(merge) == ["a"]
    merge.offer(1, "B")
    merge.offer(0, "b")
    assert drain(merge) == ["B", "b"]
    assert merge.schedule[-1] == (1, "join", 1)


def test_a_finished_partition_is_passed_over_without_a_decision() -> None:
    merge: Merge[str] = Merge([0, 1])
    merge.offer(0, "a")
    merge.offer(1, "A")
    merge.offer(0, "b")
    merge.finish(1)
    assert not merge.done
    merge.finish(0)
    assert drain(merge) == ["a", "A", "b"]
    assert merge.done
    assert [what for _, what, _ in merge.schedule] == ["join", "join"]


events = st.lists(
    st.tuples(st.sampled_from(["offer", "wait"]), st.integers(0, 2)), min_size=1, max_size=40
)


@given(events, st.integers(0, 40))
def test_a_replay_gives_the_same_order_whatever_the_clock_says(
    events: list[tuple[str, int]], cut: int
) -> None:
    """Also when it is resumed in between, as a trainer that was killed and one that was not."""
    clock = Clock()
    merge: Merge[str] = Merge([0, 1, 2], idle_timeout=1.0, clock=clock)
    counts, taken, states = [0, 0, 0], [], []
    for what, p in events:
        if what == "offer":
            merge.offer(p, f"{p}.{counts[p]}")
            counts[p] += 1
        else:
            clock.now += 0.6
        while (found := merge.next()) is not None:
            taken.append(found[1])
            states.append((merge.turn, merge.last, merge.active, len(merge.schedule)))
    schedule, turn = list(merge.schedule), merge.turn

    again: Merge[str] = Merge([0, 1, 2], replay=schedule, until=turn, clock=lambda: 0.0)
    for p, count in enumerate(counts):
        for i in range(count):
            again.offer(p, f"{p}.{i}")
    replayed = []
    while again.turn < turn and (found := again.next()) is not None:
        replayed.append(found[1])
    assert replayed == taken

    if not states:
        return
    turn_then, last, active, decided = states[cut % len(states)]
    rest: Merge[str] = Merge(
        [0, 1, 2],
        turn=turn_then,
        last=last,
        active=active,
        replay=schedule[decided:],
        until=turn,
        clock=lambda: 0.0,
    )
    done = taken[: cut % len(states) + 1]
    for p, count in enumerate(counts):
        for i in range(sum(name.startswith(f"{p}.") for name in done), count):
            rest.offer(p, f"{p}.{i}")
    resumed = []
    while rest.turn < turn and (found := rest.next()) is not None:
        resumed.append(found[1])
    assert done + resumed == taken
