"""What the old project could do, row by row of its list: learning, by simulated agents.

Rows about processes are in `test_parity_fleet.py`; 12 (dealing data) is shown by
`tests/cli/test_data_command.py`, 21 (a diagnosis) by `tests/cli/test_predict_command.py`.
"""

import csv
import gzip
import json
from functools import partial
from itertools import chain, pairwise

import numpy as np
import pytest
import simple_tasks
import torch
from safetensors.torch import load_file
from torch.nn import functional

from flctl.learning.beat_files import read_beats
from flctl.learning.ecg import Ecg

ONE, TWO = ("--virtual", 1), ("--virtual", 2)
QUICK = ("--task", "ecg", "--rounds", 1, "--epochs", 1)


def own(name: str) -> tuple[str, str, str, str]:
    return "--task", f"simple_tasks:{name}", "--evaluate", "none"


def test_parity_04_each_setting_is_a_flag_and_a_key_of_a_file(flctl, train, ecg, tmp_path):
    """The old way: --batch_size --test_batch_size --epochs --federate_after_n_batches --lr
    --cuda --seed --save_model --verbose. All are there, and a file says the same."""
    said = {
        "batch-size": 16, "test-batch-size": 50, "epochs": 2, "federate-after-n-batches": 5,
        "lr": 0.05, "device": "cpu", "seed": 7,
    }  # fmt: skip
    flags = [word for name, value in said.items() for word in (f"--{name}", value)]
    rest = ("--task", "ecg", *TWO, "--rounds", 1, "--data", ecg, "--verbose")
    typed = flctl("train", "--json", *rest, *flags, "--save-model", tmp_path / "typed.safetensors")
    file = tmp_path / "run.toml"
    keys = {**said, "save-model": str(tmp_path / "written.safetensors")}
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items()))
    written = flctl("train", file, "--json", *rest)
    for done in (typed, written):
        assert done.code == 0
        events = [json.loads(line) for line in done.out.splitlines()]
        shown = json.loads(flctl("runs", "show", events[-1]["run"], "--json").out)
        frozen = {name: shown["settings"][name.replace("-", "_")] for name in said}
        assert frozen == said
        updates = [event for event in events if event["event"] == "update"]
        assert [update["batches"] for update in updates] == [5, 5]  # of 2 × 8
        assert len([event for event in events if event["event"] == "progress"]) == 10  # --verbose
    models = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("typed", "written")]
    assert models[0] == models[1]
    assert train(*rest[:-1], *flags, "--lr", 0.02).model(1)["shape.8.bias"].tolist() != (
        load_file(tmp_path / "typed.safetensors")["shape.8.bias"].tolist()
    )


@pytest.mark.parametrize(
    ("decay", "rates"),
    [((0.98,), [0.5, 0.49, 0.4802]), ((0.1,), [0.5, 0.05, 0.005, 0.005]),
     ((0.1, "--lr-floor", 0.2), [0.5, 0.1, 0.1])],
)  # fmt: skip
def test_parity_05_the_learning_rate_decays_to_a_floor(train, decay, rates):
    """The old way: training_rounds, and a rate × 0.98 a round, not below 1 % of the first.
    Here the loss has slope 1, so that each round's model tells the rate of its one step."""
    run = train(*own("Slope"), *ONE, "--rounds", len(rates), "--batch-size", 8, "--lr", 0.5,
                "--lr-decay", *decay)  # fmt: skip
    at = [0.0, *(run.model(round_id)["at"].item() for round_id in range(1, len(rates) + 1))]
    steps = [before - after for before, after in pairwise(at)]
    assert steps == pytest.approx(rates, rel=1e-4)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def test_parity_06_the_network_of_the_guide(flctl, train, tmp_path):
    """The old way: `Net`, conv 1→20 k5, conv 20→50 k5, fc 800→500, fc 500→10, ReLU, max-pool,
    log-softmax, NLL. A trained model has these tensors, and its loss is what they compute."""
    draw, folder = np.random.default_rng(1), tmp_path / "mnist"
    folder.mkdir()
    for part, n in (("train", 64), ("t10k", 40)):
        images, labels = draw.integers(0, 256, (n, 28, 28)), draw.integers(0, 10, n)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    run = train("--task", "mnist", *ONE, "--rounds", 1, "--data", folder)
    state = run.model(1)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
        "fc1.weight": (500, 800), "fc1.bias": (500,),
        "fc2.weight": (10, 500), "fc2.bias": (10,),
    }  # fmt: skip
    assert sum(tensor.numel() for tensor in state.values()) == 431_080

    layers = {name: (state[f"{name}.weight"], state[f"{name}.bias"])
              for name in ("conv1", "conv2", "fc1", "fc2")}  # fmt: skip
    x = (torch.from_numpy(images / 255).float().unsqueeze(1) - 0.1307) / 0.3081
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, *layers["conv1"])), 2)
    x = functional.max_pool2d(functional.relu(functional.conv2d(x, *layers["conv2"])), 2)
    x = functional.relu(functional.linear(x.reshape(40, 800), *layers["fc1"]))
    x = functional.log_softmax(functional.linear(x, *layers["fc2"]), dim=1)
    expected = functional.nll_loss(x, torch.from_numpy(labels)).item()
    (committed,) = run.named("round")
    assert committed["metrics"]["values"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_parity_07_a_cnn_for_heartbeats(flctl, train, ecg, tmp_path):
    """The old way: a 1-D CNN, 5 classes, 187 samples a beat. It learns here, and other windows
    are refused."""
    run = train("--task", "ecg", *TWO, "--rounds", 6, "--data", ecg)
    first, *_, last = [event["metrics"] for event in run.named("round")]
    assert last["values"]["loss"] < first["values"]["loss"] / 1.5
    assert last["values"]["accuracy"] > 0.8  # 0.56 of these beats are normal
    assert np.shape(last["counts"]["classes"]) == (5, 5)
    assert sorted(len(t.shape) for t in run.model(1).values() if t.ndim > 1) == [2, 2, 3, 3, 3]
    np.savez(tmp_path / "short.npz", X=np.zeros((4, 186), np.int16), y=np.zeros(4, np.int8))
    refused = flctl("train", *QUICK, *ONE, "--data", tmp_path / "short.npz")
    assert refused.code != 0
    assert "X has shape [4, 186], beats have [n, 187]" in refused.complaint


def test_parity_08_each_step_tells_its_loss(flctl, ecg):
    """The old way: train_on_batches, with the loss of the last batch, logged every N batches.
    With --verbose every step is told; an update brings the mean and the last loss."""
    done = flctl("train", *QUICK, *TWO, "--data", ecg, "--batch-size", 32, "--json", "--verbose")
    events = [json.loads(line) for line in done.out.splitlines()]
    updates = {event["agent"]: event for event in events if event["event"] == "update"}
    assert set(updates) == {"pi-01", "pi-02"}
    for agent, update in updates.items():
        steps = [e for e in events if e["event"] == "progress" and e["agent"] == agent]
        assert [(step["step"], step["steps"]) for step in steps] == [(n, 4) for n in (1, 2, 3, 4)]
        losses = [step["loss"] for step in steps]
        assert len(set(losses)) == 4
        assert update["loss"] == pytest.approx(sum(losses) / 4)
        assert update["last_loss"] == losses[-1]


def test_parity_09_a_round_takes_the_next_batches(train):
    """The old way: get_next_batches, and a loader with batch_size, shuffle, drop_last, workers
    and collate_fn. A round goes on where the last one ended, over the end of an epoch."""

    def given(task: str, rounds: int, *more: object) -> list[list[float]]:
        simple_tasks.GIVEN.clear()
        train(*own(task), *ONE, "--rounds", rounds, "--batch-size", 4, *more)
        return [*simple_tasks.GIVEN]

    next_two, in_order = ("--federate-after-n-batches", 2), "--no-shuffle"
    epoch = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert given("Rows", 3, *next_two, in_order) == [*epoch, *epoch]
    assert given("Rows", 2, *next_two, in_order, "--drop-last") == [*epoch[:2], *epoch[:2]]
    shuffled = given("Rows", 3, *next_two)
    assert [len(batch) for batch in shuffled] == [4, 4, 2, 4, 4, 2]
    one, two = [*chain(*shuffled[:3])], [*chain(*shuffled[3:])]
    assert sorted(one) == sorted(two) == [*range(10)]
    assert len({tuple(one), tuple(two), tuple(range(10))}) == 3
    collated = given("Collated", 1, in_order)
    assert collated == [[x + 100 for x in batch] for batch in epoch]


def test_parity_10_who_runs_out_of_data(train):
    """The old way: all ends when one worker has no data left. Here it begins its next epoch,
    unless on_exhausted = "stop"."""
    uneven = (*own("Pull"), *TWO, "--partition", "record", "--batch-size", 1, "--rounds", 5,
              "--federate-after-n-batches", 1)  # fmt: skip
    on = train(*uneven)
    assert [event["round"] for event in on.named("round")] == [1, 2, 3, 4, 5]
    assert all(event["participants"] == ["pi-01", "pi-02"] for event in on.named("round"))
    used = {(e["round"], e["agent"]) for e in on.named("update") if e["exhausted"]}
    assert used == {(round_id, "pi-02") for round_id in (2, 3, 4, 5)}  # it has two examples of 8
    stopped = train(*uneven, "--on-exhausted", "stop")
    assert [event["round"] for event in stopped.named("round")] == [1, 2]
    assert stopped.events[-1]["event"] == "finished"
    assert "all data used: pi-02" in (stopped.folder / "journal.jsonl").read_text()


def test_parity_11_the_mean_of_the_models(train):
    """The old way: federated_avg, where all weigh alike. Here by examples, or uniform: one
    agent has six times 8 and ends there, the other twice 0."""
    run = (*own("Pull"), *TWO, "--partition", "record", "--rounds", 1, "--lr", 1)
    assert train(*run).model(1)["at"].item() == 6
    assert train(*run, "--weighting", "uniform").model(1)["at"].item() == 4


@pytest.mark.parametrize(
    ("name", "args"),
    [("Adam", {"betas": [0.8, 0.9], "amsgrad": True}), ("RMSprop", {"alpha": 0.5, "momentum": 0.5}),
     ("Adagrad", {"lr_decay": 0.1}), ("SGD", {"momentum": 0.9, "nesterov": True}),
     ("LBFGS", {"max_iter": 3})],
)  # fmt: skip
def test_parity_14_any_optimiser_of_torch(train, name, args):
    """The old way: `TrainConfig` with an optimiser and its arguments, batch_size, epochs,
    max_nr_batches, shuffle, a loss. The same steps taken with torch alone end in the same place."""
    typed = ",".join(f"{key}={json.dumps(value)}" for key, value in args.items())
    run = train(*own("Rows"), *ONE, "--rounds", 1, "--optimizer", name, "--optimizer-args", typed,
                "--lr", 0.3, "--batch-size", 4, "--epochs", 2, "--federate-after-n-batches", 5,
                "--no-shuffle")  # fmt: skip
    at = torch.nn.Parameter(torch.zeros(1))
    optimizer = getattr(torch.optim, name)([at], lr=0.3, **args)

    def step(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = (at - x).square().mean() / 2
        loss.backward()
        return loss

    epoch = torch.arange(10.0).split(4)
    for batch in [*epoch, *epoch][:5]:
        optimizer.step(partial(step, batch))
    assert abs(at.item()) > 0.1
    assert run.model(1)["at"].item() == pytest.approx(at.item(), rel=1e-5)


def test_parity_15_the_coordinator_tests_each_round(train, ecg):
    """The old way: test(), the average loss and accuracy after each epoch. Here with macro-F1
    and confusion too, the same that torch finds in the model of that round."""
    run = train("--task", "ecg", *TWO, "--rounds", 2, "--data", ecg)
    with np.load(ecg) as arrays:
        later = arrays["split"] == 1
        x, y = torch.from_numpy(arrays["X"][later]), arrays["y"][later].astype(np.int64)
    for committed in run.named("round"):
        model = Ecg().model().eval()
        model.load_state_dict(run.model(committed["round"]))
        with torch.no_grad():
            output = model(Ecg().inputs(x, training=False))
        metrics, said = committed["metrics"], output.argmax(1).numpy()
        loss = functional.cross_entropy(output, torch.from_numpy(y)).item()
        confusion = np.zeros((5, 5), int)
        np.add.at(confusion, (y, said), 1)
        f1 = [2 * np.sum((y == c) & (said == c)) / (np.sum(y == c) + np.sum(said == c))
              for c in range(5) if c in y or c in said]  # fmt: skip
        assert (metrics["source"], metrics["examples"]) == ("coordinator", 80)
        assert metrics["values"]["loss"] == pytest.approx(loss, rel=1e-4)
        assert metrics["values"]["accuracy"] == pytest.approx(np.mean(y == said))
        assert metrics["values"]["macro_f1"] == pytest.approx(np.mean(f1))
        assert metrics["counts"]["classes"] == confusion.tolist()


def test_parity_18_models_are_kept_and_exported(flctl, train, ecg, tmp_path):
    """The old way: --save_model writes mnist_cnn.pt, whatever was learnt. Here where one says,
    each round's and the best one stay, and a .pt is a plain state dict."""
    saved = tmp_path / "mine.safetensors"
    run = train("--task", "ecg", *TWO, "--rounds", 3, "--data", ecg, "--save-model", saved)
    chosen = [event["metrics"]["validation"]["values"]["macro_f1"] for event in run.named("round")]
    best = 1 + chosen.index(max(chosen))
    kept = {n: (run.folder / f"rounds/{n:04d}/model.safetensors").read_bytes() for n in (1, 2, 3)}
    assert len(set(kept.values())) == 3
    assert (run.folder / "last.safetensors").read_bytes() == kept[3]
    # The copy holds the correction, too.
    last, copied = load_file(run.folder / "last.safetensors"), load_file(saved)
    assert {name: t.tolist() for name, t in copied.items()} == {
        name: t.tolist() for name, t in last.items()
    }
    assert (run.folder / "best.safetensors").read_bytes() == kept[best]
    for which in (1, 3):
        out = tmp_path / "plain.pt"
        done = flctl("runs", "export", run.folder.name, "--format", "pt", "--which", which,
                     "--out", out)  # fmt: skip
        assert (done.code, done.err) == (0, "")
        state = torch.load(out, weights_only=True)
        Ecg().model().load_state_dict(state, strict=True)
        assert all(torch.equal(state[name], tensor) for name, tensor in run.model(which).items())


def test_parity_20_figures_for_tensorboard_a_table_and_a_picture(
    flctl, train, ecg, tmp_path, monkeypatch
):
    """The old way: TensorBoard events, a plot of loss and accuracy. Here events as the run goes
    on, a CSV file and a PNG, with the figures of the run."""
    from matplotlib.image import imread
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    run = train("--task", "ecg", *TWO, "--rounds", 2, "--data", ecg, "--tensorboard", "events")
    name = run.folder.name
    metrics = [event["metrics"] for event in run.named("round")]
    events = EventAccumulator(f"events/{name}")
    events.Reload()
    assert flctl("runs", "export", name, "--format", "csv", "--out", "run.csv").code == 0
    with (tmp_path / "run.csv").open() as file:
        rows = list(csv.DictReader(file))
    for figure in ("loss", "accuracy"):
        expected = [found["values"][figure] for found in metrics]
        points = events.Scalars(f"later/{figure}")
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == pytest.approx(expected, rel=1e-6)
        assert [float(row[figure]) for row in rows] == expected
    assert flctl("runs", "plot", name, "--out", "run.png").code == 0
    height, width, _ = imread("run.png").shape
    assert min(height, width) > 300


def test_parity_24_cuda_when_asked_for_and_available(flctl, train, ecg, monkeypatch):
    """The old way: cuda when asked for and there. Here --device, for training and evaluation;
    where there is none, one line says so."""
    run = train(*QUICK, *TWO, "--data", ecg, "--device", "auto")
    model = run.folder / "last.safetensors"
    commands = [("train", *QUICK, *TWO, "--data", ecg), ("evaluate", model, "--data", ecg)]
    if torch.cuda.is_available():
        for command in commands:
            assert flctl(*command, "--device", "cuda").code == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in commands:
        assert flctl(*command, "--device", "cpu").code == 0
        assert flctl(*command, "--device", "auto").code == 0
        refused = flctl(*command, "--device", "cuda")
        assert (refused.code, refused.out) == (2, "")
        assert (
            refused.complaint == "device = cuda, but torch finds no CUDA GPU here; use auto or cpu"
        )


def test_parity_25_nothing_leaks_from_the_test(flctl, mitdb_dir, tmp_path):
    """The old way: 95.89 % on a split that leaks. Here no agent trains on a beat of a patient who
    is unseen, nor on one that comes after a beat for testing: in what ships with flctl, as in
    records that come without a split."""
    at_s = {}
    for recording in read_beats(mitdb_dir):
        keys = zip(recording.record, map(bytes, recording.x), strict=True)
        at_s |= dict(zip(keys, recording.at_s, strict=True))
    for source, patients in (("--task", "ecg"), 16), ((mitdb_dir,), 3):
        out = tmp_path / f"{patients}"
        done = flctl("data", "split", *source, "--out", out, "--agents", 3)
        assert (done.code, done.err) == (0, "")
        shares = [np.load(out / f"pi-0{n}" / "beats.npz") for n in (1, 2, 3)]
        owned = [set(share["record"]) for share in shares]
        assert sum(map(len, owned)) == len(set.union(*owned)) == patients  # each has one owner
        for share in shares:
            beats = {(part, name): [] for name in ("106", "119", "208") for part in (0, 1)}
            for name, part, x in zip(share["record"], share["split"], share["X"], strict=True):
                assert part in (0, 1)
                if (part, name) in beats:
                    beats[part, name].append(at_s[name, bytes(x)])
            for name in {"106", "119", "208"} & set(share["record"]):
                assert max(beats[0, name]) < min(beats[1, name])
        test = np.load(out / "test" / "beats.npz")
        unseen = {"116", "205"} if patients == 16 else set()
        assert set(test["record"][test["split"] == 2]) == unseen
        assert not unseen & set.union(*owned)
