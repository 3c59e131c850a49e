"""Promises of the Flower runner: simulated, over a SuperLink, and when things fail."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

import simulations.flower  # noqa: F401 - before flwr: switches telemetry off

pytest.importorskip("flwr", reason="Flower is not installed")
pytest.importorskip("ray", reason="Ray is not installed")

from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from loopback import federation, wait_until
from safetensors.torch import load_file
from tiny_worker import LATE, a_round, same, specification, ten_rounds

from fedemb.errors import UserError
from simulations.assembly import layered
from simulations.flower import client
from simulations.flower.messages import (
    MalformedReply,
    Request,
    decode_reply,
    encode_reply,
)
from simulations.flower.runner import FlowerRunner, Patience
from simulations.flower.simulation import flower_simulation, run_in_flower
from simulations.listener import Silent
from simulations.run import simulate
from simulations.worker import WorkerFailed


@pytest.fixture(autouse=True)
def _inside_a_run():
    """Flower refuses to make messages outside of a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


@dataclass
class Wire:
    """A Flower grid whose nodes are called in this process, and misbehave as told.

    Only the transport is replaced: requests are answered by the real ClientApp handler,
    after a copy through their encoding.
    """

    nodes: int = 2
    behaviour: dict = field(default_factory=dict)  # node -> callable(reply) -> replies
    handled: list = field(default_factory=list)  # (node, share's clients)
    inbox: list = field(default_factory=list)
    sent: int = 0

    def get_node_ids(self):
        return list(range(1, self.nodes + 1))

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.sent += 1
            name = f"message-{self.sent}"
            node = message.metadata.dst_node_id
            request = Request.decode(message.content)
            self.handled.append((node, len(request.cohort)))
            runner = request.specification.build()
            clipped = runner.train(
                request.backbone, request.cohort, request.lattice, request.round_index
            )
            answer = self.behaviour.get(node, lambda content: [content])
            for content in answer(encode_reply(clipped)):
                self.inbox.append((name, content))
            ids.append(name)
        return ids

    def pull_messages(self, message_ids):
        out = [reply(i, content) for i, content in self.inbox if i in message_ids]
        self.inbox = [(i, c) for i, c in self.inbox if i not in message_ids]
        return out


def reply(message_id, content):
    ask = Message(RecordDict(), dst_node_id=1, message_type="train")
    ask.metadata.__dict__["_message_id"] = message_id
    return Message(content, reply_to=ask)


def broken(content):
    return [Error(code=2, reason="the disk is on fire")]


def silent(content):
    return []


def twice(content):
    return [content, content]


def over(wire, **patience):
    waits = Patience(**{"start": 0.2, "reply": 0.3, **patience})
    return FlowerRunner(wire, specification(), wire.nodes, waits)


class TestTransport:
    @pytest.mark.parametrize("nodes", [1, 2, 3, 20])
    def test_any_number_of_workers_gives_the_inline_sum(self, nodes):
        wire = Wire(nodes)
        expected = specification().build().train(*a_round())
        assert same(over(wire).train(*a_round()), expected)
        assert wire.sent == min(nodes, 6)  # 11 clients in chunks of 2: 6 shares at most

    @pytest.mark.parametrize("behaviour", [broken, silent, twice])
    def test_a_misbehaving_worker_changes_nothing(self, behaviour):
        wire = Wire(3, {2: behaviour})
        assert same(
            over(wire).train(*a_round()), specification().build().train(*a_round())
        )
        assert wire.sent == (3 if behaviour is twice else 4)

    def test_a_share_is_sent_again_once_at_most_and_then_counts_as_zero(self):
        theta, cohort, lattice, t = a_round()
        wire = Wire(3, {2: broken, 3: broken})
        failing = []

        def once_good(content):
            failing.append(1)
            return [content] if len(failing) == 1 else broken(content)

        wire.behaviour[1] = once_good
        result = over(wire).train(theta, cohort, lattice, t)
        assert wire.sent == 3 + 2
        first = specification().build().train(theta, cohort.part(0, 4), lattice, t)
        assert torch.equal(result.total, first.total)
        assert result.clients == first.clients == 4

    def test_a_late_reply_is_counted_once(self):
        # Node 2 answers only when its share has been sent again and both answers exist.
        wire = Wire(2)
        held = []

        def hold(content):
            held.append(content)
            return []

        wire.behaviour = {2: hold}
        pull = wire.pull_messages

        def pull_with_late_reply(ids):
            if wire.sent == 3 and held:
                wire.inbox.append(("message-2", held.pop()))
            return pull(ids)

        wire.pull_messages = pull_with_late_reply
        assert same(
            over(wire).train(*a_round()), specification().build().train(*a_round())
        )

    def test_failed_workers_sit_out_the_next_round(self):
        wire = Wire(2, {2: broken})
        runner = over(wire)
        runner.train(*a_round())
        wire.handled.clear()
        runner.train(*a_round())
        assert wire.handled == [(1, 11)]

    def test_nobody_answering_is_an_error(self):
        with pytest.raises(WorkerFailed, match="disk is on fire"):
            over(Wire(2, {1: broken, 2: broken})).train(*a_round())

    def test_missing_workers_are_an_error_that_says_how_many(self):
        runner = FlowerRunner(Wire(1), specification(), 3, Patience(start=0.1))
        with pytest.raises(WorkerFailed, match="1 of 3 workers"):
            runner.train(*a_round())

    def test_an_empty_cohort_sends_nothing(self):
        wire = Wire(2)
        theta, cohort, lattice, t = a_round()
        result = over(wire).train(theta, cohort.part(0, 0), lattice, t)
        assert result.clients == 0
        assert not result.total.any()
        assert wire.sent == 0


class TestMessages:
    def test_a_request_survives_encoding_bit_for_bit(self):
        theta, cohort, lattice, t = a_round()
        sent = Request(theta, cohort, 0.1, t, specification(users=7))
        got = Request.decode(sent.encode())
        assert torch.equal(got.backbone, theta)
        assert got.lattice.clip_norm == 0.1
        np.testing.assert_array_equal(got.cohort.users, cohort.users)
        assert got.specification.digest == sent.specification.digest

    def test_a_worker_builds_the_public_head_of_the_request(self):
        theta, cohort, lattice, t = a_round()
        head = {"weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
        described = replace(specification(), head=head)
        got = Request.decode(Request(theta, cohort, 0.1, t, described).encode())
        assert got.specification.digest == described.digest != specification().digest
        built = got.specification.build().public_head["weight"]
        np.testing.assert_array_equal(built, head["weight"])

    def test_answers_that_cannot_be_are_refused(self):
        theta, cohort, lattice, t = a_round()
        request = Request(theta, cohort.part(0, 2), 0.5, t, specification())
        whole = specification().build().train(theta, cohort, lattice, t)
        with pytest.raises(MalformedReply, match="11 virtual clients answer 2"):
            decode_reply(encode_reply(whole), request)
        with pytest.raises(MalformedReply, match="lacks"):
            decode_reply(RecordDict(), request)

    def test_the_clientapp_answers_with_the_inline_sum(self):
        theta, cohort, lattice, t = a_round()
        request = Request(theta, cohort, lattice.clip_norm, t, specification())
        ask = Message(request.encode(), dst_node_id=1, message_type="train")
        answer = client.train(ask, None)
        expected = specification().build().train(theta, cohort, lattice, t)
        assert same(decode_reply(answer.content, request), expected)

    def test_messages_hold_the_clients_key_and_not_the_runs(self):
        theta, cohort, lattice, t = a_round()
        root = specification().client_key
        text = specification().to_json()
        assert root.secret.hex() in text
        assert "client_key" not in repr(specification())
        assert root.secret.hex() not in repr(specification())


def test_simulation_survives_a_killed_worker_and_gives_the_inline_sum(tmp_path):
    trap = tmp_path / "trap"
    described = specification(trap=str(trap))
    expected = specification().build().train(*a_round())
    with flower_simulation(described, workers=2) as runner:
        assert same(runner.train(*a_round()), expected)
        trap.write_text("die once")
        assert same(runner.train(*a_round()), expected)
        assert not trap.exists()
        assert same(runner.train(*a_round()), expected)
        trap.write_text("raise")
        assert same(runner.train(*a_round()), expected)


@pytest.mark.slow
def test_simulation_with_a_worker_killed_in_each_of_ten_rounds(tmp_path):
    trap = tmp_path / "trap"
    expected = ten_rounds(specification().build())
    with flower_simulation(specification(trap=str(trap)), workers=2) as runner:
        found = ten_rounds(runner, lambda: trap.write_text("die once"))
    assert not trap.exists()
    assert found.round_index == 10
    assert torch.equal(found.backbone, expected.backbone)


@pytest.mark.slow
def test_supernodes_with_a_worker_killed_in_each_of_ten_rounds(tmp_path):
    out, trap = tmp_path / "backbone.npy", tmp_path / "trap"
    expected = ten_rounds(specification().build())
    with federation(tmp_path) as run:
        run(
            "tiny_worker:ten_deaths_and_write",
            {"out": str(out), "trap": str(trap), "reply": 150.0},
        )
        wait_until(out.exists, 1800, tmp_path)
        wait_until(lambda: out.stat().st_size > 128, 5, tmp_path)
    assert not trap.exists()
    np.testing.assert_array_equal(np.load(out), expected.backbone.numpy())


@pytest.mark.slow
def test_a_late_worker_s_share_counts_once(tmp_path):
    """Both answers arrive: that of the worker it was sent to again, and its own."""
    trap = tmp_path / "trap"
    expected = specification().build().train(*a_round())
    patience = Patience(reply=LATE / 2)
    described = specification(trap=str(trap))
    with flower_simulation(described, workers=2, patience=Patience()) as runner:
        assert same(runner.train(*a_round()), expected)  # all are there and warm
        runner._patience = patience
        trap.write_text("late")
        assert same(runner.train(*a_round()), expected)
        assert not trap.exists()
        runner._patience = Patience()
        assert same(runner.train(*a_round()), expected)


def test_run_in_flower_hands_back_what_happens_inside():
    # No worker is needed for this, so nothing waits for them.
    def fail(runner):
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        run_in_flower(fail, specification(), workers=1)
    with pytest.raises(UserError, match="workers=0"):
        run_in_flower(fail, specification(), workers=0)


# Flower notices after a minute or so that a worker was killed.
@pytest.mark.parametrize("fate", ["", pytest.param("die once", marks=pytest.mark.slow)])
def test_flwr_run_over_a_superlink_with_two_supernodes(tmp_path, fate):
    out, trap = tmp_path / "totals.npy", tmp_path / "trap"
    if fate:
        trap.write_text(fate)
    with federation(tmp_path) as run:
        run("tiny_worker:train_and_write", {"out": str(out), "trap": str(trap)})
        wait_until(out.exists, 240 if fate else 90, tmp_path)
        wait_until(lambda: len(np.load(out)) == 2, 5, tmp_path)
    assert not trap.exists()
    theta, cohort, lattice, _ = a_round()
    inline = specification().build()
    for t, total in enumerate(np.load(out)):
        expected = inline.train(theta, cohort, lattice, t)
        np.testing.assert_array_equal(total, expected.total.numpy())


WHOLE = {
    "data": {"users": 200},
    "model": {"name": "small_cnn:tiny"},
    "privacy": {"epsilon": 2.0, "users_per_round": 20},
    "run": {"rounds": 2, "seed": 7, "engine": "serial", "evaluate_every": 0},
}


def test_a_whole_run_under_flwr_run_leaves_the_backbone_of_an_inline_run(tmp_path):
    """`simulations.run:over_flower`: the run folder and the bits of `simulate`."""
    out = tmp_path / "federated"
    with federation(tmp_path) as run:
        run(
            "simulations.run:over_flower",
            {"out": str(out), "dataset": "synthetic", **WHOLE},
        )
        wait_until((out / "report.json").exists, 150, tmp_path)
        wait_until((out / "report.html").exists, 30, tmp_path)
        wait_until(lambda: not (out / "checkpoints" / "key").exists(), 10, tmp_path)
    here = tmp_path / "inline"
    simulate(layered("synthetic", "small_cnn:tiny", None, WHOLE), here, Silent())
    there, inline = (load_file(p / "backbone.safetensors") for p in (out, here))
    assert there.keys() == inline.keys()
    for name, value in inline.items():
        assert torch.equal(there[name], value), name
    reports = [json.loads((p / "report.json").read_text()) for p in (out, here)]
    for key in ("rounds_completed", "dataset"):
        assert reports[0][key] == reports[1][key]
    for when, inline_metrics in reports[1]["metrics"].items():
        # sums over pairs are threaded: their last bit may differ between processes
        assert reports[0]["metrics"][when] == pytest.approx(inline_metrics, abs=1e-9)
    spent = [r["privacy"]["epsilon_spent"] for r in reports]
    assert spent[0] == spent[1] <= 2.0
