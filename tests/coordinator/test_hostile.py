"""What the fleet may send and what it may not: it is refused, named, and the round goes on."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from memory_fleet import MemoryFleet, toy_update

from flctl.transport.keypair import KeyPair, shown
from flctl.wire import framing
from flctl.wire.messages import (
    Ask,
    Claim,
    Coded,
    Fetch,
    Goodbye,
    Heartbeat,
    Hello,
    Join,
    Telemetry,
    UpdateReady,
)
from flctl.wire.parameters import ParameterFile, dump
from flctl.worker.jobs import TrainJob


def poison(fleet: MemoryFleet, name: str, change: Callable[[Any, Any, Any], Any]) -> None:
    """Let `change(agent, model, job)` make the update of an agent, in each round."""
    agent = fleet.agents[name]
    plain = agent.do
    agent.do = lambda job, model: (
        change(agent, model, job) if isinstance(job, TrainJob) else plain(job, model)
    )


def with_value(value: float) -> Callable[[Any, Any, Any], Any]:
    def change(agent: Any, model: Any, job: TrainJob) -> Any:
        tensors = toy_update(model, job)
        tensors["weight"][1][12345] = value
        return agent.deliver(tensors)

    return change


def other_shape(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver({**toy_update(model, job), "bias": ("F32", np.zeros(4, np.float32))})


def other_dtype(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver({**toy_update(model, job), "bias": ("F64", np.zeros(3))})


def missing_tensor(agent: Any, model: Any, job: TrainJob) -> Any:
    tensors = toy_update(model, job)
    del tensors["steps"]
    return agent.deliver(tensors)


def many_examples(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver(toy_update(model, job), examples=10**9)


def wrong_digest(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver(toy_update(model, job), blob="a" * 64)


def not_tensors(agent: Any, model: Any, job: TrainJob) -> Any:
    trained, fd = agent.deliver(toy_update(model, job))
    os.pwrite(fd, b"\xff" * 64, 0)
    import hashlib

    data = os.pread(fd, 1 << 24, 0)
    return msgspec.structs.replace(trained, blob=hashlib.sha256(data).hexdigest()), fd


def huge(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver(toy_update(model, job), size=2**35)


def nan_loss(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver(toy_update(model, job), loss=float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_value(float("nan")), "weight holds NaN"),
        (with_value(float("inf")), "weight holds NaN or infinite"),
        (other_shape, "bias F32[4], the model has bias F32[3]"),
        (other_dtype, "bias F64[3]"),
        (missing_tensor, "steps is missing"),
        (many_examples, "1000000000 examples, 10 were declared"),
        (wrong_digest, "digest"),
        (not_tensors, "not a safetensors file"),
        (huge, "34359738368 bytes"),
        (nan_loss, "loss is not a finite number"),
    ],
)
def test_a_bad_update_is_rejected_and_the_round_goes_on(
    fleet: MemoryFleet, change: Callable[[Any, Any, Any], Any], words: str
):
    """The agent is named with the reason in the status; the other two make the round."""
    poison(fleet, "pi-02", change)
    fleet.start_run(rounds=1, quorum=0.6, deadline_s=100.0)
    began = fleet.now
    history = fleet.finish()
    assert history.state == "finished"
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-03"]
    assert fleet.now - began < 60, "it closed at once, not at the deadline"
    (rejected,) = fleet.named("rejected")
    assert rejected["agent"] == "pi-02" and words in rejected["reason"]
    assert words in fleet.status("pi-02")["note"]


def test_a_count_of_examples_that_jumps_is_named_and_weighs_half(fleet: MemoryFleet, caplog: Any):
    """Declared were ten all the time, claimed are one and then ten: of which it weighs 10 of 12."""
    poison(
        fleet,
        "pi-02",
        lambda agent, model, job: agent.deliver(
            toy_update(model, job), examples=1 if job.seeding.round == 1 else 10
        ),
    )
    for name in ("pi-01", "pi-03"):
        poison(fleet, name, lambda agent, model, job: agent.deliver(
            toy_update(model, job), examples=1))  # fmt: skip
    caplog.set_level("INFO")
    fleet.start_run(rounds=2)
    assert fleet.finish().state == "finished"
    words = "claims 10 examples, 1 in its round before"
    assert words in fleet.status("pi-02")["note"]
    assert caplog.text.count(words) == 1
    assert "agent=pi-02 has 10 of 12 examples, and weighs 0.500" in caplog.text


def plain(agent: Any, model: Any, job: TrainJob) -> Any:
    return agent.deliver(toy_update(model, job))


def repacked(change: Callable[[dict[str, Any]], None]) -> Callable[[Any, Any, Any], Any]:
    """An honest compressed update, of which `change` spoils a tensor."""

    def repack(agent: Any, model: Any, job: TrainJob) -> Any:
        _, fd = agent.compressed(toy_update(model, job), model, job)
        file = ParameterFile(fd, "honest")
        tensors = {s.name: (s.dtype, file.read(s).reshape(s.shape)) for s in file.specs}
        change(tensors)
        spoilt = os.memfd_create("spoilt")
        return agent.delivered(spoilt, *dump(spoilt, tensors, file.metadata))

    return repack


def asking(**changes: Any) -> Callable[[Any, Any, Any], Any]:
    """As if the run had asked for something else."""

    def other(agent: Any, model: Any, job: TrainJob) -> Any:
        training = msgspec.structs.replace(job.training, **changes)
        if training.compression == "none":
            return plain(agent, model, job)
        job = msgspec.structs.replace(job, training=training)
        return agent.compressed(toy_update(model, job), model, job)

    return other


def with_error(error: float) -> Callable[[Any, Any, Any], Any]:
    def change(agent: Any, model: Any, job: TrainJob) -> Any:
        made, fd = agent.compressed(toy_update(model, job), model, job)
        claim = msgspec.structs.replace(made.claim, compression_error=error)
        return msgspec.structs.replace(made, claim=claim), fd

    return change


def backwards(tensors: dict[str, Any]) -> None:
    tensors["indices"] = ("I32", tensors["indices"][1][::-1])


def infinite(tensors: dict[str, Any]) -> None:
    tensors["scales"][1][0] = np.inf


@pytest.mark.parametrize(
    ("asked", "change", "words"),
    [
        ("int8", plain, "is not compressed, the run asks for int8"),
        ("none", asking(compression="int8"), "is compressed as 'int8', the run asks for none"),
        ("int8", asking(compression="topk"), "is compressed as 'topk', the run asks for int8"),
        ("topk", asking(topk_share=0.05), "this model's topk update has"),
        ("topk", repacked(backwards), "indices are not ascending"),
        ("int8", repacked(infinite), "a scale is not a finite number"),
        ("int8", with_error(float("nan")), "error of its compression is not a finite number"),
        ("int8", with_error(float("inf")), "error of its compression is not a finite number"),
        ("int8", with_error(-0.1), "error of its compression is not a finite number"),
    ],
)
def test_a_bad_compressed_update_is_rejected_and_the_round_goes_on(
    fleet: MemoryFleet, asked: str, change: Callable[[Any, Any, Any], Any], words: str
):
    """Checked before it counts, as a plain one; the reason stands in the journal."""
    poison(fleet, "pi-02", change)
    fleet.start_run(rounds=1, quorum=0.6, deadline_s=100.0, compression=asked)
    history = fleet.finish()
    assert history.state == "finished"
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-03"]
    (rejected,) = fleet.named("rejected")
    assert rejected["agent"] == "pi-02" and words in rejected["reason"]


def raw(fleet: MemoryFleet, name: str, *frames: bytes) -> None:
    fleet.agents[name].link.send(list(frames))


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"GET / HTTP/1.1\r\n"],
        [os.urandom(100), os.urandom(1000)],
        [b"flc\x02", b"\x81\xa4type"],
        [b"flc\x02", msgspec.msgpack.encode({"type": "launch", "missiles": 3})],
        [b"flc\x02", b"\xdd\xff\xff\xff\xff"],
        [b"flc\x02", b"\x91" * 5000],
        [b"flc\x02", b"x" * 70_000],
        [b"flc\x02", framing.encode(Goodbye())[1], b"y" * 300_000],
    ],
)
def test_noise_from_an_agent_disturbs_nobody(fleet: MemoryFleet, frames: list[bytes]):
    """Bytes that are no message are counted against their sender, and the run finishes."""
    fleet.start_run(rounds=2)
    fleet.until(lambda: len(fleet.named("update")) >= 1)
    raw(fleet, "pi-01", *frames)
    assert fleet.finish().state == "finished"


def update_for(key: dict[str, Any], fleet: MemoryFleet) -> UpdateReady:
    changed = msgspec.structs.replace(fleet.coordinator.training.round.key_of("pi-01"), **key)
    claim = Claim(examples=5, batches=1, loss=1.0, last_loss=1.0, seconds=1.0)
    return UpdateReady(key=changed, update=Coded(blob="b" * 64, size=100), claim=claim)


@pytest.mark.parametrize(
    "key", [{"run": "another"}, {"version": 7}, {"base": "c" * 64}, {"sequence": 2}]
)
def test_an_update_for_something_else_is_thrown_away(fleet: MemoryFleet, key: dict[str, Any]):
    """Of another run, model or order: acknowledged, discarded, never counted."""
    for agent in fleet.agents.values():
        agent.ticks = 30
    fleet.start_run(rounds=1)
    fleet.until(lambda: any(agent.trained for agent in fleet.agents.values()))
    raw(fleet, "pi-01", *framing.encode(update_for(key, fleet)))
    history = fleet.finish()
    assert history.state == "finished"
    assert history.rounds[0].participants["pi-01"].examples == 10
    assert not fleet.named("rejected")


def test_messages_of_an_operator_from_an_agent_are_refused(fleet: MemoryFleet):
    """An agent's key neither starts runs nor reads the status."""
    fleet.start_run(rounds=2)
    fleet.until(lambda: bool(fleet.named("opened")))
    raw(fleet, "pi-01", *framing.encode(Ask(id=1, what="stop", args={"run": "x"})))
    assert fleet.finish().state == "finished"
    assert "an agent may not send Ask" in fleet.coordinator.roster.members["pi-01"].note


@pytest.mark.parametrize("role", ["read", "admin"])
def test_an_agent_with_an_operators_key_is_told(fleet: MemoryFleet, role: Any, caplog: Any):
    """It is not left waiting for a welcome, and comes in once its key is an agent's."""
    pair = KeyPair.make()
    fleet.keyring.add("boss", pair.public, role)
    agent = fleet.add("pi-09", enrol=False, keys=pair)
    told = f"reason=role this key is enrolled as {role}, not as an agent"
    fleet.until(lambda: told in caplog.text, within_s=5)
    assert (
        f"flctl keys revoke boss  and then  flctl keys add boss {shown(pair.public)}" in caplog.text
    )
    assert not agent.supervisor.session.welcomed
    fleet.keyring.revoke("boss")
    fleet.keyring.add("boss", pair.public, "agent")
    fleet.until(lambda: agent.supervisor.session.welcomed, within_s=60)


def test_an_older_agent_is_shown_as_too_old_and_told(fleet: MemoryFleet):
    """Of the protocol before: the status says what to upgrade, the agent hears it."""
    agent = fleet.agents["pi-01"]
    decode = fleet.coordinator.peers.decode
    decode.oldest, decode.newest = framing.PROTOCOL + 1, framing.PROTOCOL + 2
    for _ in range(5):
        fleet.step()
    status = fleet.status("pi-01")
    assert status["state"] == "too old"
    assert "upgrade the agent" in status["note"]
    assert not agent.supervisor.session.welcomed


@pytest.mark.parametrize("name", ["Hello", "Heartbeat", "UpdateReady", "Join", "Ask"])
def test_an_agent_of_protocol_1_hears_what_to_do(fleet: MemoryFleet, name: str):
    """Bytes of flctl 0.1: whatever it says, its status has the command, and it gets the notice
    that it knows; nothing of it is taken for a message of today."""
    data = Path(__file__).parents[1] / "data" / "flctl-0.1" / "frames.json"
    kept = {n: [bytes.fromhex(f) for f in fs] for n, fs in json.loads(data.read_text()).items()}
    heard = fleet.agents.pop("pi-02").link  # whoever has its key; an agent of today is silent
    fleet.step()
    list(heard.receive())
    heard.send(kept[name])
    for _ in range(3):
        fleet.step()
    status = fleet.status("pi-02")
    assert status["state"] == "too old"
    assert status["note"] == (
        "too old: speaks protocol 1, the coordinator 2: upgrade the agent: "
        "flctl upgrade -i INVENTORY --limit pi-02"
    )
    (answer,) = [frames for frames in heard.receive() if isinstance(frames, list)]
    assert bytes(answer[0]) == kept["notice"][0]
    assert msgspec.msgpack.decode(answer[1])["oldest"] == framing.OLDEST == 2


def test_a_newer_agent_is_shown_as_too_new(fleet: MemoryFleet):
    """The coordinator must be upgraded first, and its status says so."""
    hello = framing.encode(Goodbye(), protocol=9)
    raw(fleet, "pi-02", *[bytes(f) for f in hello])
    fleet.step()
    status = fleet.status("pi-02")
    assert status["state"] == "too new" and "upgrade the coordinator" in status["note"]


def test_the_protocol_before_is_spoken(fleet: MemoryFleet):
    """A coordinator of protocol N+1 works with agents of N, and answers in N."""
    fleet.coordinator.peers.decode.oldest = framing.PROTOCOL
    fleet.coordinator.peers.decode.newest = framing.PROTOCOL + 1
    fleet.start_run(rounds=2)
    assert fleet.finish().state == "finished"
    assert fleet.status("pi-01")["protocol"] == framing.PROTOCOL


def test_two_machines_with_one_key_are_both_refused_until_one_is_left(fleet: MemoryFleet):
    """Cloned SD cards: neither takes part, the status says conflict; then one may again."""
    for _ in range(5):
        fleet.step()
    clone = fleet.add("clone", enrol=False, keys=fleet.agents["pi-01"].keys)
    fleet.until(lambda: fleet.status("pi-01")["state"] == "conflict")
    assert "two machines" in fleet.status("pi-01")["note"]
    clone.kill()
    fleet.until(lambda: fleet.status("pi-01")["state"] == "ready", within_s=120)


def test_a_rebooted_agent_is_not_taken_for_a_clone(fleet: MemoryFleet):
    """Power is cut without a goodbye and the old connection hangs: it is back within 5 s."""
    fleet.until(lambda: fleet.coordinator.roster.member("pi-01").ready)
    agent = fleet.agents["pi-01"]
    agent.alive = False  # nothing answers any more, but its connection is not closed
    agent.state.close()
    agent.start()
    fleet.until(lambda: fleet.coordinator.roster.of_peer(agent.link.peer) is not None, within_s=5)


def test_a_key_revoked_in_the_middle_of_a_round_counts_no_more(fleet: MemoryFleet):
    """Its live connection does not help it: its messages are refused from then on."""
    fleet.agents["pi-03"].ticks = 50
    fleet.start_run(rounds=1, quorum=0.6, deadline_s=500.0)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    fleet.keyring.revoke("pi-03")
    history = fleet.finish()
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-02"]
    assert "pi-03" not in fleet.coordinator.roster.members


def test_a_reboot_behind_a_hanging_connection_in_mid_upload_costs_no_attempt(fleet: MemoryFleet):
    """Its card has lost the update, too: what is asked of it is the new one."""
    fleet.start_run(rounds=1, deadline=300.0)
    agent = fleet.agents["pi-01"]
    agent.ticks = 60

    def fetched() -> list[str]:
        training = fleet.coordinator.training
        standings = training.round.standings() if training and training.round else {}
        return [agent for agent, standing in standings.items() if standing == "offered"]

    fleet.until(lambda: "pi-01" in fetched())
    inbox = fleet.hub.inbox
    for incoming in [incoming for incoming in inbox if incoming.peer == agent.link.peer]:
        inbox.remove(incoming)
    agent.alive = False
    agent.state.close()
    agent.folder = agent.folder.with_name("pi-01-new-card")
    agent.ticks = 200  # longer than a stalled transfer is waited for
    agent.start()
    history = fleet.finish()
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-02", "pi-03"]
    assert not fleet.named("attempt")


def test_an_unlisted_key_waits_until_it_is_enrolled(fleet: MemoryFleet):
    """It is refused and shown as waiting; after keys add it gets in by itself."""
    pair = KeyPair.make()
    fleet.add("pi-09", enrol=False, keys=pair)
    fleet.step()
    assert [w.key for w in fleet.keyring.waiting()] == [pair.public]
    fleet.keyring.add("pi-09", pair.public, "agent")
    fleet.until(lambda: "pi-09" in fleet.coordinator.roster.members, within_s=60)
    assert not fleet.keyring.waiting()


def test_a_token_lets_an_agent_in_once(fleet: MemoryFleet):
    """It joins under the name that it asks for; the token's single use is spent."""
    token = fleet.keyring.new_token(600, 1)
    fleet.add("pi-08", enrol=False, token=token)
    fleet.until(lambda: "pi-08" in fleet.coordinator.roster.members, within_s=10)
    assert "pi-08" in fleet.coordinator.agents.enrolled()


@pytest.mark.parametrize(
    "message",
    [
        Hello(
            session="0" * 32,
            version="1",
            role="train",
            tasks={},
            device={"kind": "x", "arch": "x", "cores": 1, "memory_bytes": 1},
        ),  # type: ignore[arg-type]
        Heartbeat(sequence=1, state="ready", telemetry=Telemetry()),
        Fetch(blob="a" * 64, offset=0, length=10),
        Ask(id=1, what="status"),
        Join(token="flt_wrong", name="pi-01"),
    ],
)
def test_a_guest_may_only_join(fleet: MemoryFleet, message: Any):
    """While a token is open an unknown key may say Join, and nothing else is answered."""
    fleet.keyring.new_token(600, 1)
    link = fleet.network.link(KeyPair.make().public)
    for _ in range(3):
        fleet.step()
    link.send(framing.encode(message))
    fleet.step()
    _, answer, _ = framing.to_agent()(next(iter(link.receive())))
    assert type(answer).__name__ == "Refused"
    assert sorted(fleet.coordinator.agents.enrolled()) == ["pi-01", "pi-02", "pi-03"]
