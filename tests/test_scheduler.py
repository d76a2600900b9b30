"""The scheduler against whatever executors, other processes and the disk may do, on made-up plans."""

from __future__ import annotations

import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_plans import (
    FACTS,
    Session,
    damage,
    drawn_plan,
    limit_of_tries,
    make_plan,
    make_run,
    make_stage,
    publish,
    scripted,
)

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.scheduler import Limits
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.interfaces import Event

pytestmark = pytest.mark.usefixtures("disk_at_ease")
FATES = ("raise", "oom", "die", "vanish", "die after", "damage", "busy", "busy in vain", "unbegun", "crash late")

PACK = make_stage("pack", 0)
OTHER = make_stage("pack", 1)
START = make_stage("pretrain", 0, PACK)
ADAPT = [make_stage("adapt", n, START) for n in range(3)]
EMBED = [make_stage("embed", n, ADAPT[n], PACK, OTHER) for n in range(3)]
RANK = [make_stage("rank", n, EMBED[n], **FACTS) for n in range(3)]
RUNS = [make_run(n, [ADAPT[n]], [RANK[n]]) for n in range(3)]
STAGES = [PACK, OTHER, START, *ADAPT, *EMBED, *RANK]
PLAN = make_plan(STAGES, RUNS)
ONE = make_plan(STAGES, RUNS[:1])


# ── Whatever happens ──────────────────────────────────────────────────────────────────────────────


def blamed(session: Session, failing: set[str], keys: Iterable[str]) -> set[str]:
    """The failing stages that these are, or stand on, as far as they are not stored."""
    stages = session.plan.stages
    open_, seen = list(keys), set[str]()
    while open_:
        key = open_.pop()
        if key not in seen:
            seen.add(key)
            open_ += stages[key].inputs.values() if not session.store.has(stages[key]) else ()
    return seen & failing


def play(rng: random.Random, folder: Path, *, often: float, retries: int, slots: int, fates: list[str]) -> None:
    """A session in which anything may happen, and one more in which nothing does."""
    plan = drawn_plan(rng)
    budget = rng.randint(0, 8)

    def fate(stage: Stage | None) -> str:
        nonlocal budget
        possible = [one for one in fates if (stage is None) == (one in ("unbegun", "crash late"))]
        if budget and possible and rng.random() < often:
            budget -= 1
            return rng.choice(possible)
        return "ok"

    Store(folder / "store").create()
    for stage in rng.sample(list(plan.stages.values()), rng.randint(0, len(plan.stages)) * rng.randint(0, 1)):
        publish(Store(folder / "store"), stage)  # of a session before, as far as it was not removed since
    session = Session(plan, folder, fate, rng.randrange, slots=slots, retries=retries)
    attempts, lost = session.executor.attempts, session.executor.lost
    if "damage" in fates:
        session.told.on_end = lambda run, status: session.executor.damage(
            rng.sample(sorted(plan.stages), rng.choice([0, 0, 0, 1]))
        )
    ended = session.run()
    failing = {key for key, ones in attempts.items() if math.isfinite(limit_of_tries(ones, retries))}
    for run in plan.runs:
        record = session.record(run)
        if ended[run.seed] == "ok":
            assert len(record.scores) == len(run.scores)
        elif not record.ok:
            assert record.spec["status"] == ended[run.seed]
        if lost:  # which of them was noticed, and when, is another matter
            assert ended[run.seed] == "ok" or failing or lost.total() > 2
        else:
            trained = not blamed(session, failing, run.stage_keys() - {score.stage.key for score in run.scores})
            good = [one.key for one in run.scores if trained and not blamed(session, failing, [one.stage.key])]
            assert record.ok == bool(good)
            assert [score.folder.name for score in record.scores] == good
            assert (ended[run.seed] == "ok") == (len(good) == len(run.scores))
    for key, ones in attempts.items() if not lost else ():
        assert len(ones) <= limit_of_tries(ones, retries), (plan.stages[key], ones)
    again = Session(plan, folder, slots=slots)
    assert set(again.run().values()) <= {"ok"}
    assert all(again.record(run).ok and len(again.record(run).scores) == len(run.scores) for run in plan.runs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    often=st.sampled_from([0.2, 0.6]),
    retries=st.integers(0, 2),
    slots=st.integers(1, 4),
    fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=5, unique=True),
)
def test_every_run_is_recorded_once_and_right(
    seed: int, often: float, retries: int, slots: int, fates: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(random.Random(seed), Path(folder), often=often, retries=retries, slots=slots, fates=fates)


# ── One thing at a time ───────────────────────────────────────────────────────────────────────────


def test_chains_are_for_when_all_slots_have_work(tmp_path: Path) -> None:
    session = Session(PLAN, tmp_path, slots=2)
    assert session.run() == {0: "ok", 1: "ok", 2: "ok"}
    assert session.executor.tasks[:3] == [("pack 0",), ("pack 1",), ("pretrain 0",)]  # in the plan's order
    chains = [tuple(f"{kind} {n}" for kind in ("adapt", "embed", "rank")) for n in range(3)]
    assert set(session.executor.tasks) >= set(chains[:2])
    wide = Session(PLAN, tmp_path / "wide", slots=8)
    wide.run()
    assert all(len(task) == 1 for task in wide.executor.tasks)


def test_a_calibration_shares_no_process_with_what_is_not_its_own(tmp_path: Path) -> None:
    """Of one training two scores: what a method does as it calibrates must not reach the other."""
    calibrated = make_stage("rank", 7, EMBED[0], **FACTS, calibration={"name": "csls"})
    plan = make_plan([*STAGES, calibrated], [*RUNS, make_run(7, [ADAPT[0]], [calibrated])])
    session = Session(plan, tmp_path, slots=1)
    assert set(session.run().values()) == {"ok"}
    assert ("rank 7",) in session.executor.tasks
    assert ("adapt 0", "embed 0", "rank 0") in session.executor.tasks


def test_a_try_again_does_not_wait_for_the_word_that_the_process_is_over(tmp_path: Path) -> None:
    """And what had followed in that process is done once, wherever."""
    picked: list[int] = []

    def last(count: int) -> int:
        picked.append(count)
        return count - 1  # of several tasks the one begun last: `over` of the others comes late

    session = Session(ONE, tmp_path, scripted({ADAPT[0]: ["oom"]}), last, retries=1, slots=2)
    assert session.run() == {0: "ok"}
    assert session.executor.attempts[ADAPT[0].key] == ["oom"]
    assert session.told.warnings == ["adapt of adapt 0 is tried again: oom"]
    assert 2 in picked  # the second try ran before the first was over
    assert session.told.running == set()


@pytest.mark.parametrize("fate", ["die", "vanish", "oom"])
def test_retries_are_counted(tmp_path: Path, fate: str) -> None:
    tried = Session(ONE, tmp_path, scripted({START: [fate] * 2}), retries=2)
    assert tried.run() == {0: "ok"}
    failed = Session(ONE, tmp_path / "failed", scripted({START: [fate] * 9}), retries=2)
    status = {"die": "timeout", "vanish": "failed", "oom": "oom"}[fate]
    assert failed.run() == {0: status}
    assert len(failed.executor.attempts[START.key]) == 3
    assert failed.failure(RUNS[0])["what"] == START.label
    assert failed.failure(RUNS[0])["error"] == failed.told.ended[RUNS[0]][1]


def test_what_raises_is_not_tried_again_and_costs_what_builds_on_it(tmp_path: Path) -> None:
    session = Session(PLAN, tmp_path, scripted({EMBED[1]: ["raise"]}), retries=5)
    assert session.run() == {0: "ok", 1: "failed", 2: "ok"}
    assert session.executor.attempts[EMBED[1].key] == ["raise"]
    assert session.failure(RUNS[1])["stage"] == "embed"
    assert [error for _, error in session.told.stages if error] == ["raise"]


def test_damaged_inputs_do_not_use_up_retries(tmp_path: Path) -> None:
    session = Session(ONE, tmp_path, scripted({EMBED[0]: ["damage", "die"]}), retries=1)
    assert session.run() == {0: "ok"}
    assert session.executor.attempts[EMBED[0].key] == ["damage", "die"]


def test_three_inputs_damaged_at_once_are_made_anew_together(tmp_path: Path) -> None:
    session = Session(ONE, tmp_path, scripted({EMBED[0]: ["damage"]}))
    assert session.run() == {0: "ok"}
    assert session.executor.attempts[EMBED[0].key] == ["damage"]
    done = Counter(label for label, error in session.told.stages if error is None)
    again = {PACK.label, OTHER.label, ADAPT[0].label}
    assert done == dict.fromkeys(again, 2) | {one.label: 1 for one in (START, EMBED[0], RANK[0])}
    ever = Session(ONE, tmp_path / "ever", scripted({EMBED[0]: ["damage"] * 9}))
    assert ever.run() == {0: "failed"}
    assert len(ever.executor.attempts[EMBED[0].key]) == 3


def test_a_process_that_dies_after_its_last_deed_costs_nothing(tmp_path: Path) -> None:
    """Neither the stage that it had published, nor the next, which it had not begun."""
    session = Session(PLAN, tmp_path, scripted({ADAPT[0]: ["die after"]}))
    assert session.run() == {0: "ok", 1: "ok", 2: "ok"}
    assert session.executor.attempts == {}
    late = Session(ONE, tmp_path / "late", scripted({None: ["crash late"] * 9}), slots=1)
    assert late.run() == {0: "ok"}


def test_what_is_done_again_is_not_blamed_for_the_end_of_a_process_that_had_not_come_to_it(tmp_path: Path) -> None:
    fates = {RANK[0]: ["damage"], EMBED[0]: ["ok", "die after"]}
    session = Session(ONE, tmp_path, scripted(fates), slots=1)
    assert session.run() == {0: "ok"}
    assert session.executor.tasks[-2:] == [(EMBED[0].label, RANK[0].label), (RANK[0].label,)]
    assert session.executor.attempts == {RANK[0].key: ["damage"]}


def test_a_process_that_does_not_begin_costs_the_first_of_its_stages(tmp_path: Path) -> None:
    session = Session(ONE, tmp_path, scripted({None: ["ok", "ok", "unbegun"]}), slots=1)
    assert session.run() == {0: "failed"}
    assert session.failure(RUNS[0])["error"] == "no process for it"


@pytest.mark.parametrize("publishes", [True, False])
def test_what_another_process_computes_is_waited_for(tmp_path: Path, publishes: bool) -> None:
    session = Session(ONE, tmp_path)
    held = ExitStack()
    assert held.enter_context(session.store.holding(START.key, wait=False))
    wait, waits = session.executor.wait, 0

    def end(seconds: float) -> list[Event]:
        """It ends when nothing else is left to do for some time."""
        nonlocal waits
        if {PACK.label, OTHER.label} == {label for label, _ in session.told.stages}:
            waits += 1
        if waits == 9:
            if publishes:
                publish(session.store, START)
            held.close()
        return wait(seconds) if session.executor.busy else []

    session.executor.wait = end  # type: ignore[method-assign]
    assert session.run() == {0: "ok"}
    assert ((START.label,) in session.executor.tasks) != publishes
    assert session.told.warnings == ["waiting for another process, which computes 1 stages"]


def test_an_interrupt_leaves_word_of_what_was_begun(tmp_path: Path) -> None:
    session = Session(PLAN, tmp_path, slots=1)
    wait = session.executor.wait

    def interrupted(seconds: float) -> list[Event]:
        if (RANK[0].label, None) in session.told.stages and len(session.executor.tasks) > 4:
            raise KeyboardInterrupt
        return wait(seconds)

    session.executor.wait = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        session.scheduler.run()
    session.scheduler.interrupt()
    assert session.scheduler.counts == {"ok": 1, "interrupted": 1}
    assert session.record(RUNS[1]).spec["status"] == "interrupted"
    assert not (tmp_path / "runs" / RUNS[2].key).exists()
    assert Session(PLAN, tmp_path).run() == {1: "ok", 2: "ok"}


# ── Records of stages that were lost ──────────────────────────────────────────────────────────────


def test_a_record_that_misses_a_stage_has_it_made_anew(tmp_path: Path) -> None:
    store = Session(ONE, tmp_path).store
    for stage in STAGES:
        publish(store, stage)
    damage(store, START)
    session = Session(ONE, tmp_path)
    assert session.status.stages == ()  # as far as can be seen without reading all of it
    assert session.run() == {0: "ok"}
    assert session.executor.tasks == [(START.label,)]
    assert "is damaged" in session.told.warnings[0]


def test_runs_that_share_what_was_lost_all_wait_for_it(tmp_path: Path) -> None:
    """It is lost as the first of them ends, and the second has it made anew."""
    plan = make_plan(STAGES, [make_run(n, [ADAPT[0]], [RANK[0]]) for n in range(4)])
    session = Session(plan, tmp_path)
    session.told.on_end = lambda run, status: session.executor.damage([RANK[0].key] if run.seed == 0 else [])
    assert session.run() == dict.fromkeys(range(4), "ok")


def test_a_record_that_misses_a_stage_for_ever_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(key: str, name: str) -> bytes:
        raise MissingError([key], "the disk forgets")

    session = Session(ONE, tmp_path)
    monkeypatch.setattr(session.store, "read", read)
    assert session.run() == {0: "failed"}
    assert session.failure(RUNS[0])["error"] == "the disk forgets"


def test_a_lost_training_that_cannot_be_made_anew_is_a_failure(tmp_path: Path) -> None:
    store = Session(ONE, tmp_path).store
    for stage in STAGES:
        publish(store, stage)
    damage(store, START)
    session = Session(ONE, tmp_path, scripted({START: ["raise"]}))
    assert session.run() == {0: "failed"}
    assert session.failure(RUNS[0])["what"] == START.label
    assert session.record(RUNS[0]).scores == ()
    assert Session(ONE, tmp_path).run() == {0: "ok"}


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    for seconds, gib, name in ((limit, None, "time"), (None, limit, "memory")):
        with pytest.raises(UsageError, match=f"a {name} limit of {limit:g} is none"):
            Limits.of(60.0, seconds, gib, 0)
    for gib in (1e-12, 1e308):
        with pytest.raises(UsageError, match=f"a memory limit of {gib:g} is none".replace("+", "\\+")):
            Limits.of(60.0, None, gib, 0)
    assert Limits.of(60.0, None, 0.5, 0).memory == 2**29
