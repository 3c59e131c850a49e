"""The ledger: what is reserved stays counted, whatever happens next."""

import multiprocessing
import os
import shutil
import sqlite3
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting import (
    BudgetExhausted,
    LedgerError,
    PrivacyLedger,
    SampledGaussian,
    Sampler,
    UnsupportedMechanism,
    epsilon,
)

DELTA = 1e-5


def mechanism(z=1.0, u=1, sampler=Sampler.POISSON_VIRTUAL_CLIENTS, **more):
    return SampledGaussian(
        sampler=sampler,
        population=1000,
        users_per_round=20,
        noise_multiplier=z,
        users_per_virtual_client=u,
        **more,
    )


def create(path, budget=None):
    return PrivacyLedger.create(
        path,
        population_id="clinic",
        population=1000,
        budget_epsilon=budget,
        delta=DELTA,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_reserve_then_commit_then_read(path):
    ledger = create(path)
    for index in range(3):
        ledger.commit(ledger.reserve(mechanism(), run_id="a", round_index=index))
    ledger.reserve(mechanism(), run_id="a", round_index=3)
    ledger.close()
    again = PrivacyLedger.open(path)
    assert again.committed_rounds("a") == [0, 1, 2]
    assert [entry.committed for entry in again.entries()] == [True, True, True, False]
    spent = again.spent()
    assert spent.reservations == 4
    assert spent.epsilon == epsilon(mechanism(), rounds=4, delta=DELTA).epsilon
    assert again.spent(run_id="other").epsilon == 0


def test_the_budget_is_kept_to_the_round(path):
    fits = epsilon(mechanism(), rounds=30, delta=DELTA).epsilon
    ledger = create(path, budget=fits)
    for index in range(30):
        ledger.reserve(mechanism(), run_id="a", round_index=index)
    before = ledger.entries()
    with pytest.raises(BudgetExhausted, match="round 30 of run 'a'"):
        ledger.reserve(mechanism(), run_id="a", round_index=30)
    assert ledger.entries() == before
    assert ledger.spent().epsilon <= fits


def test_a_bit_for_bit_repeat_is_free_even_when_the_budget_is_gone(path):
    ledger = create(path, budget=epsilon(mechanism(), rounds=1, delta=DELTA).epsilon)
    first = ledger.reserve(mechanism(), run_id="a", round_index=0, fingerprint="k")
    again = ledger.reserve(mechanism(), run_id="a", round_index=0, fingerprint="k")
    assert again.id == first.id
    assert again.repeated
    for fingerprint in ("", "other"):
        with pytest.raises(BudgetExhausted):
            ledger.reserve(
                mechanism(), run_id="a", round_index=0, fingerprint=fingerprint
            )


def test_without_a_fingerprint_a_repeat_is_paid_again(path):
    ledger = create(path)
    for _ in range(2):
        ledger.reserve(mechanism(), run_id="a", round_index=0)
    assert ledger.spent().reservations == 2


def test_a_repeat_with_other_noise_is_another_release(path):
    ledger = create(path)
    for z in (1.0, 2.0):
        ledger.reserve(mechanism(z), run_id="a", round_index=0, fingerprint="k")
    assert ledger.spent().reservations == 2


def test_a_committed_round_never_runs_again(path):
    ledger = create(path)
    receipt = ledger.reserve(mechanism(), run_id="a", round_index=0, fingerprint="k")
    ledger.commit(receipt)
    ledger.commit(receipt)  # idempotent
    with pytest.raises(LedgerError, match="already committed"):
        ledger.reserve(mechanism(), run_id="a", round_index=0, fingerprint="k")
    ledger.reserve(mechanism(), run_id="a", round_index=0, stage="second")
    assert ledger.committed_rounds("a") == [0]


def test_foreign_receipts_are_refused(tmp_path):
    one, two = create(tmp_path / "1"), create(tmp_path / "2")
    receipt = one.reserve(mechanism(), run_id="a", round_index=0)
    with pytest.raises(LedgerError, match="not given there"):
        two.commit(receipt)


def test_two_receipts_of_a_round_cannot_both_commit(path):
    ledger = create(path)
    first = ledger.reserve(mechanism(), run_id="a", round_index=0)
    second = ledger.reserve(mechanism(), run_id="a", round_index=0)
    ledger.commit(second)
    with pytest.raises(LedgerError, match="another receipt"):
        ledger.commit(first)


def test_other_populations_are_refused(path):
    ledger = create(path, budget=1.0)
    ledger.close()
    same = {"population_id": "clinic", "population": 1000, "delta": DELTA}
    PrivacyLedger.open_or_create(path, **same, budget_epsilon=1.0).close()
    PrivacyLedger.open_or_create(path, **same, budget_epsilon=None).close()
    for change in (
        {"population_id": "school"},
        {"population": 999},
        {"budget_epsilon": 2.0},
        {"delta": 1e-6},
    ):
        with pytest.raises(LedgerError, match="must equal"):
            PrivacyLedger.open_or_create(
                path, **{"budget_epsilon": 1.0, **same, **change}
            )
    ledger = PrivacyLedger.open(path)
    other = SampledGaussian(
        sampler="poisson-users", population=5, users_per_round=1, noise_multiplier=1
    )
    with pytest.raises(LedgerError, match="population=5"):
        ledger.reserve(other, run_id="a", round_index=0)


def test_mechanisms_without_a_common_adjacency_do_not_compose(path):
    ledger = create(path)
    ledger.reserve(mechanism(), run_id="a", round_index=0)
    with pytest.raises(UnsupportedMechanism, match="neighbouring relation"):
        ledger.reserve(mechanism(sampler=Sampler.FIXED_SIZE), run_id="b", round_index=0)
    assert len(ledger.entries()) == 1


def test_different_mechanisms_compose(path):
    ledger = create(path)
    for index in range(4):
        ledger.reserve(mechanism(1.0), run_id="a", round_index=index)
        ledger.reserve(mechanism(2.0, u=4), run_id="b", round_index=index)
    both = ledger.spent().epsilon
    alone = epsilon(mechanism(1.0), rounds=4, delta=DELTA).epsilon
    assert (
        alone < both < alone + epsilon(mechanism(2.0, 4), rounds=4, delta=1e-9).epsilon
    )
    assert ledger.spent(run_id="a").epsilon == alone


def test_no_noise_never_fits_a_budget(tmp_path):
    with pytest.raises(BudgetExhausted):
        create(tmp_path / "1", 1.0).reserve(mechanism(0.0), run_id="a", round_index=0)
    unlimited = create(tmp_path / "2")
    unlimited.reserve(mechanism(0.0), run_id="a", round_index=0)
    assert unlimited.spent().to_dict()["epsilon"] is None


def test_a_period_is_paid_at_once(path):
    ledger = create(path)
    shuffled = mechanism(4.0, sampler=Sampler.SHUFFLED)
    ledger.reserve(shuffled, run_id="a", round_index=0)
    wanted = epsilon(shuffled, rounds=shuffled.period, delta=DELTA).epsilon
    assert ledger.spent().epsilon == wanted


@pytest.mark.parametrize("content", [b"", b"notes\n" * 50, b"SQLite format 3\0" * 20])
def test_foreign_files_are_refused_and_left_untouched(path, content):
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="left untouched"):
        PrivacyLedger.open(path)
    with pytest.raises(LedgerError):
        create(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_another_programs_database_is_left_untouched(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE log (seq)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        PrivacyLedger.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "forgery",
    [
        "DELETE FROM log WHERE seq = 2",
        "UPDATE log SET round_index = 7 WHERE seq = 3",
        "UPDATE tally SET count = count - 1",
        "UPDATE header SET value = '99.0' WHERE name = 'budget_epsilon'",
        "UPDATE mechanisms SET json = replace(json, '1.0', '9.0')",
        "DELETE FROM mechanisms",
    ],
)
def test_forgeries_show(path, forgery):
    ledger = create(path, budget=5.0)
    for index in range(3):
        ledger.commit(ledger.reserve(mechanism(), run_id="a", round_index=index))
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute(forgery)
    connection.close()
    with pytest.raises(LedgerError, match="cannot be trusted"):
        PrivacyLedger.open(path)


def test_a_damaged_file_is_refused(path):
    ledger = create(path)
    for index in range(40):
        ledger.reserve(mechanism(), run_id="a", round_index=index, fingerprint="x" * 99)
    ledger.close()
    content = bytearray(path.read_bytes())
    content[4096:8192] = os.urandom(4096)
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerError):
        PrivacyLedger.open(path)
    assert path.read_bytes() == bytes(content)


def test_missing_folders_are_made_and_unwritable_ones_reported(tmp_path):
    create(tmp_path / "new" / "folder" / "ledger.sqlite").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="could not be created"):
        create(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(LedgerError, match="could not be read"):
        PrivacyLedger.open(tmp_path / "absent")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "commit", "crash"]),
            st.integers(0, 3),
            st.sampled_from(["", "x", "y"]),
            st.sampled_from([1.0, 3.0]),
        ),
        max_size=25,
    )
)
def test_any_interleaving_keeps_the_sum(tmp_path_factory, steps):
    """A model in memory and the file agree after any reserve, commit or crash."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    ledger = create(path)
    paid, open_receipts, committed = [], {}, set()
    for action, index, fingerprint, z in steps:
        if action == "crash":
            # What is on disk now is what a killed process would leave.
            copy = path.with_name(f"copy{len(list(path.parent.iterdir()))}.sqlite")
            for suffix in ("", "-wal"):
                if path.with_name(path.name + suffix).exists():
                    shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
            ledger.close()
            path, ledger = copy, PrivacyLedger.open(copy)
        elif action == "reserve" and index in committed:
            with pytest.raises(LedgerError):
                ledger.reserve(mechanism(z), run_id="a", round_index=index)
        elif action == "reserve":
            key = (index, fingerprint, z)
            receipt = ledger.reserve(
                mechanism(z), run_id="a", round_index=index, fingerprint=fingerprint
            )
            known = open_receipts.get(key)
            if fingerprint and known is not None:
                assert receipt.id == known.id
            else:
                paid.append((index, fingerprint, z))
                open_receipts[key] = receipt
        else:
            mine = [r for k, r in open_receipts.items() if k[0] == index]
            if mine and index not in committed:
                ledger.commit(mine[-1])
                committed.add(index)
        entries = ledger.entries()
        found = [
            (e.round_index, e.fingerprint, e.mechanism.noise_multiplier)
            for e in entries
        ]
        assert found == paid
        assert ledger.committed_rounds("a") == sorted(committed)
        assert ledger.spent(accountant="rdp").reservations == len(paid)
    ledger.verify()
    ledger.close()


def _spend(path, name, start, results):
    ledger = PrivacyLedger.open(path)
    start.wait()
    count = 0
    try:
        for index in range(50):
            ledger.commit(ledger.reserve(mechanism(), run_id=name, round_index=index))
            count += 1
    except BudgetExhausted:
        pass
    results.put(count)


def test_two_processes_cannot_both_spend_the_last_round(path):
    create(path, budget=epsilon(mechanism(), rounds=31, delta=DELTA).epsilon).close()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_spend, args=(path, name, start, results))
        for name in ("one", "two")
    ]
    for worker in workers:
        worker.start()
    counts = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(counts) == 31
    ledger = PrivacyLedger.open(path)
    assert len(ledger.entries()) == 31
    assert ledger.spent().epsilon <= ledger.budget_epsilon


def _reserve_until_killed(path):
    ledger = PrivacyLedger.open(path)
    for index in range(10_000):
        receipt = ledger.reserve(mechanism(), run_id="a", round_index=index)
        print(index, flush=True)
        ledger.commit(receipt)


def test_kill_leaves_a_consistent_ledger(path):
    import subprocess
    import sys

    create(path).close()
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]);"
        "from test_accounting_ledger import _reserve_until_killed as run;"
        "run(__import__('pathlib').Path(sys.argv[1]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), os.path.dirname(__file__)],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = [child.stdout.readline() for _ in range(20)]
    child.kill()
    seen += child.stdout.readlines()
    child.wait()
    ledger = PrivacyLedger.open(path)
    entries = ledger.entries()
    # Every announced round is there; at most the one in flight is uncommitted.
    whole = [line for line in seen if line.endswith("\n")]
    assert len(entries) >= len(whole) >= 20
    assert all(entry.committed for entry in entries[:-1])


def test_a_thousand_reservations_are_cheap(path):
    rounds = 600
    ledger = create(path, epsilon(mechanism(), rounds=rounds, delta=DELTA).epsilon)
    ledger._connection.execute("PRAGMA synchronous = OFF")  # time the accounting
    start = time.process_time()
    for index in range(rounds):
        ledger.reserve(mechanism(), run_id="a", round_index=index)
    assert time.process_time() - start < 4
    with pytest.raises(BudgetExhausted):
        ledger.reserve(mechanism(), run_id="a", round_index=rounds)
