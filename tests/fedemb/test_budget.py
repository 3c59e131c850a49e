"""Who pays for a round, when it is free, and that no budget is ever exceeded."""

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from core_toys import KEY, plan, rows, runner, start, theta
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import BudgetExhausted, LedgerError, PrivacyLedger, epsilon
from fedemb.budget import LedgerBudget, Unaccounted
from fedemb.checkpoint import Checkpointer, read_state
from fedemb.server import ServerSGD
from fedemb.train import train

DELTA = 1e-5
PLAN = plan(1000, 20, noise_multiplier=1.0)


def create(path, rounds=None, population=1000):
    """A ledger with just enough budget for some rounds of the plan."""
    spent = rounds and epsilon(PLAN.mechanism, rounds=rounds, delta=DELTA).epsilon
    return PrivacyLedger.create(
        path,
        population_id="toy",
        population=population,
        budget_epsilon=spent,
        delta=DELTA,
    )


def budget(ledger, run="a", fingerprint="", stage=""):
    return LedgerBudget(ledger, PLAN.mechanism, run, stage, fingerprint)


def paid(ledger):
    return len(ledger.entries())


def test_every_round_is_reserved_and_committed_once(tmp_path):
    ledger = create(tmp_path / "ledger")
    for t in range(3):
        budget(ledger).reserve(t)()
    commit = budget(ledger).reserve(3)
    assert [entry.committed for entry in ledger.entries()] == [True, True, True, False]
    commit()
    assert all(entry.committed for entry in ledger.entries())


def test_only_a_replay_under_the_same_fingerprint_is_free(tmp_path):
    ledger = create(tmp_path / "ledger")
    budget(ledger, fingerprint="key and data").reserve(0)
    budget(ledger, fingerprint="key and data").reserve(0)
    assert paid(ledger) == 1
    budget(ledger, fingerprint="other data").reserve(0)
    assert paid(ledger) == 2
    for count in (3, 4):  # without a fingerprint nothing can be promised
        budget(ledger).reserve(0)
        assert paid(ledger) == count


def test_stages_and_runs_pay_for_their_own_rounds_from_one_budget(tmp_path):
    ledger = create(tmp_path / "ledger", rounds=3)
    budget(ledger, "a", "f").reserve(0)
    budget(ledger, "a", "f", stage="second").reserve(0)
    budget(ledger, "b", "f").reserve(0)
    with pytest.raises(BudgetExhausted):
        budget(ledger, "c", "f").reserve(0)
    assert paid(ledger) == 3


def test_a_committed_round_never_runs_again(tmp_path):
    ledger = create(tmp_path / "ledger")
    budget(ledger, fingerprint="f").reserve(0)()
    with pytest.raises(LedgerError):
        budget(ledger, fingerprint="f").reserve(0)


def test_nothing_is_paid_and_promised_without_a_ledger():
    assert Unaccounted().reserve(0)() is None


actions = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "crash"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 2),
        st.sampled_from(["", "f", "g"]),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(actions)
def test_any_interleaving_of_runs_and_crashes_keeps_to_the_budget(
    tmp_path_factory, actions
):
    """A model that counts by hand agrees with the ledger after every step."""
    path, limit = tmp_path_factory.mktemp("ledger") / "ledger", 6
    ledger, open_rounds, closed, count = create(path, limit), {}, set(), 0
    commits = {}
    for action, run, t, fingerprint in actions:
        name = (run, t)
        if action == "crash":
            ledger.close()
            ledger, commits = PrivacyLedger.open(path), {}
        elif action == "commit" and name in commits and name not in closed:
            commits.pop(name)()
            closed.add(name)
        elif action == "reserve":
            own = budget(ledger, run, fingerprint)
            free = fingerprint and fingerprint in open_rounds.get(name, set())
            if name in closed:
                with pytest.raises(LedgerError):
                    own.reserve(t)
            elif not free and count == limit:
                with pytest.raises(BudgetExhausted):
                    own.reserve(t)
            else:
                commits[name] = own.reserve(t)
                count += not free
                open_rounds.setdefault(name, set()).add(fingerprint)
        assert paid(ledger) == count <= limit
    done = {(e.run_id, e.round_index) for e in ledger.entries() if e.committed}
    assert done == closed
    ledger.close()


def _spend(path, barrier, results):
    ledger = PrivacyLedger.open(path)
    barrier.wait(60)
    try:
        budget(ledger, run=multiprocessing.current_process().name).reserve(0)
        results.put("paid")
    except BudgetExhausted:
        results.put("refused")


def test_two_processes_cannot_both_spend_the_last_round(tmp_path):
    ledger = create(tmp_path / "ledger", rounds=3)
    for t in range(2):
        budget(ledger).reserve(t)
    ledger.close()
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(2), fork.Queue()
    workers = [
        fork.Process(target=_spend, args=(tmp_path / "ledger", barrier, results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    answers = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert answers == ["paid", "refused"]
    assert paid(PrivacyLedger.open(tmp_path / "ledger")) == 3


def another_program(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE about (key, value)")
    connection.close()


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no ledger at all" * 50),
    "database": another_program,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_and_left_byte_for_byte(tmp_path, kind):
    path = tmp_path / "ledger"
    FOREIGN[kind](path)
    before = path.read_bytes()
    with pytest.raises(LedgerError):
        PrivacyLedger.open(path)
    with pytest.raises(LedgerError):
        create(path)
    assert path.read_bytes() == before


def test_damaged_ledgers_are_refused_and_left_byte_for_byte(tmp_path):
    path = tmp_path / "ledger"
    ledger = create(path)
    for t in range(40):
        budget(ledger).reserve(t)
    ledger.close()
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:4096] + bytes(len(whole) - 4096)):
        path.write_bytes(broken)
        with pytest.raises(LedgerError):
            PrivacyLedger.open(path)
        assert path.read_bytes() == broken
    path.write_bytes(whole)
    assert paid(PrivacyLedger.open(path)) == 40


def test_an_altered_entry_is_noticed(tmp_path):
    path = tmp_path / "ledger"
    ledger = create(path)
    budget(ledger).reserve(0)
    ledger.close()
    connection = sqlite3.connect(path)
    columns = connection.execute(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
        "WHERE m.type = 'table' AND c.name IN ('run', 'run_id')"
    ).fetchall()
    assert columns
    for table, column in columns:
        connection.execute(f"UPDATE {table} SET {column} = 'nobody'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError):
        PrivacyLedger.open(path)


def run(path, ledger_path, until, fingerprint="same", data_seed=1):
    """Train from the checkpoint if there is one; stop after `until` rounds."""
    own = runner(rows([3, 5, 2, 4] * 5, data_seed), head="linear")
    own_plan = plan(20, 8, rounds=until)
    known = ledger_path.exists()
    ledger = (
        PrivacyLedger.open(ledger_path) if known else create(ledger_path, population=20)
    )
    pays = LedgerBudget(ledger, own_plan.mechanism, "a", "", fingerprint)
    state = read_state(path)[0] if path.exists() else start(theta(own))
    optimizer, writer = ServerSGD(learning_rate=0.5, momentum=0.9), Checkpointer(path)

    def save(following, commit):
        writer(following, commit)
        writer.flush()

    last = train(state, own_plan, own, optimizer, KEY, pays, save=save)
    writer.close()
    entries = [(e.round_index, e.committed) for e in ledger.entries()]
    ledger.close()
    return last, entries


def test_a_run_that_is_killed_and_resumed_ends_and_pays_like_one_that_is_not(tmp_path):
    whole, entries = run(tmp_path / "whole", tmp_path / "ledger", 4)
    assert entries == [(t, True) for t in range(4)]
    run(tmp_path / "cut", tmp_path / "other", 2)
    ledger = PrivacyLedger.open(tmp_path / "other")  # killed inside the third round
    LedgerBudget(ledger, plan(20, 8).mechanism, "a", "", "same").reserve(2)
    ledger.close()
    resumed, entries = run(tmp_path / "cut", tmp_path / "other", 4)
    assert entries == [(t, True) for t in range(4)]
    assert torch.equal(resumed.backbone, whole.backbone)
    assert torch.equal(resumed.moments[0], whole.moments[0])


def test_a_round_repeated_on_other_data_is_paid_again(tmp_path):
    run(tmp_path / "cut", tmp_path / "ledger", 1)
    ledger = PrivacyLedger.open(tmp_path / "ledger")
    LedgerBudget(ledger, plan(20, 8).mechanism, "a", "", "same").reserve(1)
    ledger.close()
    _, entries = run(tmp_path / "cut", tmp_path / "ledger", 2, "other data", 7)
    assert entries == [(0, True), (1, False), (1, True)]


def test_commits_of_another_thread_never_collide_with_reservations(tmp_path):
    """Rounds are committed by the thread that saves checkpoints."""
    ledger = create(tmp_path / "ledger")
    own = budget(ledger)
    with ThreadPoolExecutor(1) as saver:
        done = [saver.submit(own.reserve(t)) for t in range(150)]
    assert [future.exception() for future in done] == [None] * 150
    assert all(entry.committed for entry in ledger.entries())
