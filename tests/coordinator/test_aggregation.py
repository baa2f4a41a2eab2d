"""From the spool to the next model."""

import gc
import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flctl.coordinator.run import aggregation
from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.store.folder import RunFolder
from flctl.errors import ParametersError, StateError
from flctl.settings import RunSettings
from flctl.wire.parameters import ParameterFile, dump

SETTINGS = RunSettings(task="ecg", max_share=1.0)
EXAMPLES = {"pi-01": 17, "pi-02": 300, "pi-03": 5}


def aggregate(*args: Any) -> Aggregated:
    """And wait until it is on disk."""
    made = aggregation.aggregate(*args)
    assert made.syncing is not None
    made.syncing.wait()
    return made


def model_of(agent: str) -> dict:
    rng = np.random.default_rng(list(agent.encode()))
    return {
        "w": ("F32", rng.standard_normal(3000).astype(np.float32)),
        "h": ("BF16", rng.integers(0x3F00, 0x4000, 40).astype(np.uint16)),
        "n": ("I64", rng.integers(0, 99, ())),
    }


def save(path: Path, tensors: dict, metadata=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        dump(file.fileno(), tensors, metadata)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder.create(tmp_path, SETTINGS)
    save(made.model_path(0), model_of("first"), {"task": "ecg"})
    made.make_spool(1)
    return made


def spool(folder: RunFolder, agents=EXAMPLES) -> None:
    for agent in agents:
        save(folder.spool_path(1) / f"{agent}.safetensors", model_of(agent))


def header(path: Path) -> tuple:
    with path.open("rb") as file:
        parameters = ParameterFile(file.fileno(), str(path))
        return parameters.specs, parameters.metadata


def test_the_average_takes_its_place_under_its_digest(folder):
    """Whole, with the metadata of the first model, and nothing else is left."""
    spool(folder)
    made = aggregate(folder, 1, EXAMPLES, SETTINGS)
    data = made.path.read_bytes()
    assert (made.model, made.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert made.path == folder.model_path(1)
    assert [p.name for p in made.path.parent.iterdir() if p.is_file()] == ["model.safetensors"]
    assert header(made.path) == header(folder.model_path(0))
    shares = np.array(list(EXAMPLES.values())) / sum(EXAMPLES.values())
    expected = sum(
        share * model_of(agent)["w"][1].astype(np.float64)
        for share, agent in zip(shares, EXAMPLES, strict=True)
    )
    with made.path.open("rb") as file:
        parameters = ParameterFile(file.fileno(), "mean")
        (spec,) = (s for s in parameters.specs if s.name == "w")
        np.testing.assert_allclose(parameters.read(spec), expected, rtol=1e-6, atol=1e-7)


def test_the_bytes_do_not_depend_on_who_was_first(folder):
    """Whatever order the updates were written and named in, the digest is the same."""
    digests = set()
    for order in itertools.permutations(EXAMPLES):
        for path in folder.spool_path(1).iterdir():
            path.unlink()
        spool(folder, order)
        examples = {agent: EXAMPLES[agent] for agent in reversed(order)}
        digests.add(aggregate(folder, 1, examples, SETTINGS).model)
    assert len(digests) == 1


def test_who_is_not_named_does_not_take_part(folder):
    """A late update may lie in the spool of a round that was closed without it."""
    spool(folder, ["pi-01", "pi-02"])
    alone = aggregate(folder, 1, {"pi-01": 17, "pi-02": 300}, SETTINGS).model
    spool(folder)
    assert aggregate(folder, 1, {"pi-01": 17, "pi-02": 300}, SETTINGS).model == alone
    assert aggregate(folder, 1, EXAMPLES, SETTINGS).model != alone


def test_the_settings_say_how_updates_weigh(folder):
    """By examples, uniform, or capped: three different models."""
    spool(folder)
    ways = [{"max_share": 1.0}, {"weighting": "uniform"}, {"max_share": 0.5}]
    models = {aggregate(folder, 1, EXAMPLES, RunSettings(task="ecg", **w)).model for w in ways}
    assert len(models) == 3


def test_one_claim_weighs_half_at_most(folder, caplog):
    """From three agents on, unless the run says otherwise; where it does not bind, as before."""
    spool(folder)

    def model(examples, **given):
        return aggregate(folder, 1, examples, RunSettings(task="ecg", **given)).model

    caplog.set_level("INFO", "flctl.coordinator.run.aggregation")
    claim = {**EXAMPLES, "pi-02": 2**53}
    assert model(claim) == model(claim, max_share=0.5) != model(claim, max_share=1.0)
    assert f"agent=pi-02 has {2**53} of {2**53 + 22} examples, and weighs 0.500" in caplog.text
    caplog.clear()
    fair = {"pi-01": 100, "pi-02": 300, "pi-03": 200}
    assert model(fair) == model(fair, max_share=1.0)
    two = {"pi-01": 1, "pi-02": 300}
    assert model(two) == model(two, max_share=1.0)
    assert not caplog.text


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes long, its header says"),
        (lambda path: save(path, model_of("x") | {"w": ("F32", np.zeros(7, "f4"))}), "w F32[7]"),
        (lambda path: save(path, {"w": model_of("x")["w"]}), "tensor n is missing"),
        (lambda path: save(path, model_of("x") | {"z": ("U8", np.zeros(1, "u1"))}), "tensor z"),
    ],
)
@pytest.mark.parametrize("agents", [["pi-02"], list(EXAMPLES)])
def test_a_damaged_update_is_named_with_its_agent(folder, damage, says, agents):
    """Even when it is the only one, or the first: the model says what must be there."""
    spool(folder)
    for agent in agents:
        damage(folder.spool_path(1) / f"{agent}.safetensors")
    with pytest.raises(ParametersError) as caught:
        aggregate(folder, 1, dict.fromkeys(agents, 5), SETTINGS)
    assert str(caught.value).startswith(f"round 1, update of {agents[0]}: ")
    assert says in str(caught.value)


def test_an_update_that_is_gone_is_explained(folder):
    """Somebody has tidied up the state folder."""
    spool(folder, ["pi-01"])
    with pytest.raises(StateError, match="cannot read the updates: No such file"):
        aggregate(folder, 1, EXAMPLES, SETTINGS)


def test_a_model_that_is_gone_is_explained(folder):
    """Or the model that the round started from."""
    spool(folder)
    folder.model_path(0).unlink()
    with pytest.raises(StateError, match="cannot read the model"):
        aggregate(folder, 1, EXAMPLES, SETTINGS)


def open_files() -> int:
    gc.collect()  # or files that earlier tests have left are closed meanwhile
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_stays_open(folder):
    """Neither after success nor after failure: a run of 10,000 rounds must not run out of them."""
    spool(folder)
    before = open_files()
    aggregate(folder, 1, EXAMPLES, SETTINGS)
    (folder.spool_path(1) / "pi-03.safetensors").write_bytes(b"damaged")
    with pytest.raises(ParametersError):
        aggregate(folder, 1, EXAMPLES, SETTINGS)
    assert open_files() == before


def test_a_half_written_average_of_before_is_written_over(folder):
    """The coordinator was killed in the middle of it, or between it and the commit."""
    spool(folder)
    whole = aggregate(folder, 1, EXAMPLES, SETTINGS)
    data = whole.path.read_bytes()
    for name in ("model.safetensors", ".model.safetensors.tmp"):
        (folder.round_path(1) / name).write_bytes(data + b"rest of something larger")
    again = aggregate(folder, 1, EXAMPLES, SETTINGS)
    assert (again.model, again.size, again.path) == (whole.model, whole.size, whole.path)
    assert whole.path.read_bytes() == data
