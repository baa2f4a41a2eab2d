"""Tasks that are no classification, on the command line, with the examples of `examples/`."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REF = {
    "regression": "flctl_energy.task:Energy",
    "anomaly": "flctl_pump.task:Pump",
    "sequences": "flctl_doors.task:Doors",
    "images": "flctl_lamps.task:Lamps",
    "two_inputs": "flctl_lights.task:Lights",
}


@pytest.fixture
def example(monkeypatch):
    """Makes an example importable, by its folder's name."""
    packages = []

    def use(name):
        packages.append(REF[name].split(".")[0])
        monkeypatch.syspath_prepend(str(EXAMPLES / name))
        return REF[name]

    yield use
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def program_in(folder, name):
    spec = importlib.util.spec_from_file_location("made", folder / name)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


@pytest.mark.parametrize("name", ["regression", "anomaly", "sequences", "two_inputs"])
def test_the_readings_of_the_examples_are_made_by_their_programs(name, tmp_path):
    """Byte for byte, so that everybody can see how they were invented."""
    folder = REF[name].split(".")[0]
    shutil.copy(EXAMPLES / name / "make_readings.py", tmp_path)
    (tmp_path / folder).mkdir()
    program_in(tmp_path, "make_readings.py").main()
    made = (tmp_path / folder / "readings.csv").read_bytes()
    assert made == (EXAMPLES / name / folder / "readings.csv").read_bytes()


def test_the_images_of_the_example_are_drawn_by_its_program(tmp_path):
    """Pixel for pixel; their bytes depend on the library that packs them."""
    from PIL import Image

    shutil.copy(EXAMPLES / "images" / "make_images.py", tmp_path)
    program_in(tmp_path, "make_images.py").main()
    files = sorted((EXAMPLES / "images" / "flctl_lamps").rglob("*.png"))
    made = sorted((tmp_path / "flctl_lamps").rglob("*.png"))
    assert [file.name for file in files] == [file.name for file in made] and len(files) == 72
    for one, other in zip(files, made, strict=True):
        assert Image.open(one).tobytes() == Image.open(other).tobytes()


@pytest.mark.parametrize("name", ["sequences", "images"])
def test_sequences_and_images_are_learnt_and_predicted(flctl, example, tmp_path, name):
    """Batches of their own form, read one by one; an event without a label, and a picture."""
    ref, state = example(name), tmp_path / "state"
    run = "train", "--task", ref, "--virtual", 3, "--state", state, "--partition", "record"
    assert flctl(*run, "--rounds", 12).code == 0
    (folder,) = (state / "runs").iterdir()
    best = folder / "best.safetensors"
    said = flctl("evaluate", best, "--task", ref, "--json")
    assert json.loads(said.out)["values"]["accuracy"] > 0.8
    if name == "images":
        data = EXAMPLES / "images" / "flctl_lamps" / "images"
        picture = tmp_path / "p.png"
        done = flctl("predict", best, data, "--task", ref, "--rows", 1, "--plot", picture)
        assert done.code == 0 and picture.stat().st_size, done.err
        return
    readings = EXAMPLES / "sequences" / "flctl_doors" / "readings.csv"
    unknown = without("event", readings, tmp_path / "unknown.csv")
    done = flctl("predict", best, unknown, "--task", ref, "--json")
    assert json.loads(done.out)["predictions"][0]["true"] is None, done.err


def test_a_picture_and_a_number_are_learnt_together(flctl, example, tmp_path):
    """Neither tells alone. A list of dicts becomes a dict of tensors; all rows of
    a file are predicted."""
    ref, state = example("two_inputs"), tmp_path / "state"
    lines = (EXAMPLES / "two_inputs" / "flctl_lights" / "readings.csv").read_text().splitlines()
    run = "train", "--task", ref, "--virtual", 4, "--state", state, "--partition", "record"
    assert flctl(*run).code == 0
    (folder,) = (state / "runs").iterdir()
    best = folder / "best.safetensors"
    said = json.loads(flctl("evaluate", best, "--task", ref, "--json").out)
    assert said["values"]["accuracy"] > 0.9, said["values"]
    file = tmp_path / "all.csv"
    file.write_text("\n".join(lines[:90]) + "\n")
    told = json.loads(flctl("predict", best, file, "--task", ref, "--json").out)
    assert told["examples"] == 89 and told["right"] > 75


@pytest.mark.parametrize("name", REF)
def test_the_examples_are_fit_for_a_fleet(flctl, example, name):
    """Every check says ok."""
    done = flctl("tasks", "check", example(name))
    *checks, verdict = done.out.splitlines()
    assert {line[12:].split()[0] for line in checks} == {"ok"}, done.out
    assert verdict.endswith("is fit for a fleet")


def without(column, source, target):
    """The same CSV without a column."""
    rows = [line.split(",") for line in source.read_text().splitlines()]
    gone = rows[0].index(column)
    target.write_text("".join(",".join(r[:gone] + r[gone + 1 :]) + "\n" for r in rows))
    return target


def test_a_number_is_learnt_measured_predicted_and_drawn(flctl, example, tmp_path):
    """With its unit everywhere; of a file without it, without errors."""
    ref = example("regression")
    readings = EXAMPLES / "regression" / "flctl_energy" / "readings.csv"
    state = tmp_path / "state"
    run = "train", "--task", ref, "--virtual", 4, "--rounds", 8, "--state", state
    lines = flctl(*run).out.splitlines()
    assert " kWh " in lines[0] and "on validation: RMSE" in lines[0]
    (folder,) = (state / "runs").iterdir()
    best = folder / "best.safetensors"
    done = flctl("evaluate", best, "--task", ref, "--json")
    values = json.loads(done.out)["values"]
    assert values["r2"] > 0.8 and values["mae"] < values["rmse"] < 5
    assert "MAE, kWh" in flctl("evaluate", best, "--task", ref).out
    picture = tmp_path / "p.png"
    done = flctl("predict", best, readings, "--task", ref, "--rows", 1, "--plot", picture)
    assert "prediction, kWh" in done.out and picture.stat().st_size
    assert f"The mean absolute error is {values['mae']:.4f} kWh." in done.out
    unknown = without("energy_kwh", readings, tmp_path / "unknown.csv")
    done = flctl("predict", best, unknown, "--task", ref, "--json")
    told = json.loads(done.out)
    assert (told["unit"], told["predictions"][0]["true"]) == ("kWh", None)
    assert 0 < told["predictions"][0]["value"] < 60
    done = flctl("predict", best, unknown, "--task", ref, "--rows", 1, "--plot", picture)
    assert (done.code, "true" in done.out) == (0, False)
    shown = flctl("runs", "show", folder.name, "--state", state).out
    assert "RMSE, kWh" in shown and "least RMSE on validation" in shown
    plot = tmp_path / "r.png"
    assert flctl("runs", "plot", folder.name, "--state", state, "--out", plot).code == 0
    done = flctl("runs", "export", folder.name, "--state", state, "--format", "csv", "--out", "-")
    assert {"rmse", "r2", "validation_mae"} <= {*done.out.splitlines()[0].split(",")}
    done = flctl("data", "describe", "--task", ref, "--png", tmp_path / "d.png")
    assert "10 to 20 kWh" in done.out and (tmp_path / "d.png").stat().st_size


def test_numbers_are_dealt_into_shares(flctl, example, tmp_path):
    """By ranges in the manifest; agents train on the folders, the coordinator tests on its own."""
    ref, shares = example("regression"), tmp_path / "shares"
    split = "data", "split", "--task", ref, "--agents", 3, "--out", shares
    done = flctl(*split, "--partition", "label")
    assert done.code == 0 and "10 to 20 kWh" in done.out, done.err
    assert flctl("data", "verify", shares).code == 0
    done = flctl("data", "describe", shares / "pi-02", "--task", ref)
    assert "kWh" in done.out and done.code == 0, done.err
    done = flctl("tasks", "check", ref, "--data", shares / "pi-01")
    assert done.code == 0, done.out


def test_anomalies_are_found_without_labels(flctl, example, tmp_path):
    """A threshold from the validation part of the run; scores and flags, with labels or without."""
    ref = example("anomaly")
    readings = EXAMPLES / "anomaly" / "flctl_pump" / "readings.csv"
    state = tmp_path / "state"
    run = "train", "--task", ref, "--virtual", 3, "--state", state, "--partition", "record"
    lines = flctl(*run, "--save-model", tmp_path / "saved.safetensors").out.splitlines()
    assert "AUROC" in lines[0] and "99th percentile" in lines[0]
    (folder,) = (state / "runs").iterdir()
    best = folder / "best.safetensors"
    evaluate = "evaluate", best, "--task", ref, "--json"
    assert json.loads(flctl(*evaluate).out)["values"]["auroc"] > 0.95
    validation = json.loads(flctl(*evaluate, "--split", "validation", "--data", readings).out)
    assert validation["values"]["auroc"] is None  # there are no labels
    predict = "predict", best, readings, "--task", ref
    told = json.loads(flctl(*predict, "--json").out)
    assert told["threshold"] > 0 and told["right"] > 0.9 * told["examples"]
    for each in told["predictions"]:
        assert each["anomaly"] == (each["score"] > told["threshold"])
    unknown = without("fault", readings, tmp_path / "unknown.csv")
    done = flctl("predict", best, unknown, "--task", ref, "--rows", 0, "--plot", tmp_path / "p.png")
    assert done.code == 0 and "true" not in done.out and " anomaly" in done.out, done.err
    export = "runs", "export", folder.name, "--state", state, "--format", "safetensors"
    for which in ("best", "last"):
        copied = tmp_path / f"{which}.safetensors"
        assert flctl(*export, "--which", which, "--out", copied).code == 0
        here = json.loads(flctl("predict", folder / copied.name, *predict[2:], "--json").out)
        there = json.loads(flctl("predict", copied, *predict[2:], "--json").out)
        assert there["predictions"] == here["predictions"]
        assert there["threshold"] == here["threshold"] > 0
        assert json.loads(flctl("evaluate", copied, *evaluate[2:]).out)["values"]["auroc"] > 0.95
    assert (tmp_path / "saved.safetensors").read_bytes() == copied.read_bytes()
    alone = shutil.copy(best, tmp_path / "alone.safetensors")
    done = flctl("predict", alone, unknown, "--task", ref)
    assert "nothing is flagged; --threshold sets one" in done.out
    done = flctl("predict", alone, unknown, "--task", ref, "--threshold", "1e9", "--json")
    assert not any(each["anomaly"] for each in json.loads(done.out)["predictions"])
    shown = flctl("runs", "show", folder.name, "--state", state).out
    assert "AUROC" in shown and "least loss on validation" in shown
    done = flctl("data", "describe", "--task", ref)
    assert "unlabelled" in done.out and "anomaly" in done.out


def test_what_has_no_targets_can_be_predicted_but_not_measured(flctl, example, tmp_path):
    """One line says what is missing."""
    ref = example("regression")
    readings = EXAMPLES / "regression" / "flctl_energy" / "readings.csv"
    unknown = without("energy_kwh", readings, tmp_path / "unknown.csv")
    done = flctl("train", "--task", ref, "--virtual", 2, "--data", unknown, "--state", tmp_path)
    assert done.code == 1 and "without targets" in done.complaint
    assert "Traceback" not in done.err


def test_a_plain_task_brings_its_own_loss_and_figures(flctl, tmp_path, monkeypatch):
    """Two numbers at once, and a metric that only it knows."""
    (tmp_path / "plain_own.py").write_text(
        "import torch\n"
        "from flctl import Examples, Metric, Task\n"
        "class Place(Task):\n"
        "    name, unit = 'place', 'm'\n"
        "    metrics = (Metric('loss', lower=True), Metric('away', lower=True, unit='m'))\n"
        "    defaults = {'batch_size': 8, 'lr': 0.1}\n"
        "    def model(self): return torch.nn.Linear(3, 2)\n"
        "    def train_data(self, path):\n"
        "        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))\n"
        "        return Examples(x, x[:, :2] * 2)\n"
        "    def held_out(self, path): return self.train_data(path).select(range(16))\n"
        "    def loss(self, output, target): return (output - target).square().mean()\n"
        "    def figures(self, output, target): return {'away': (output - target).norm(dim=1)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = flctl("tasks", "check", "plain_own:Place")
    assert done.code == 0, done.out
    state = tmp_path / "state"
    run = "train", "--task", "plain_own:Place", "--virtual", 2, "--rounds", 5, "--state", state
    done = flctl(*run)
    assert done.code == 0 and " m  " in done.out, done.err
    (folder,) = (state / "runs").iterdir()
    done = flctl("predict", folder / "last.safetensors", tmp_path, "--task", "plain_own:Place")
    assert "prediction, m" in done.out and done.code == 0, done.err
    sys.modules.pop("plain_own", None)


TAGS = """
import torch
from torch import nn
from flctl import Examples, MultiLabel

class Tags(MultiLabel):
    name, classes = "tags", ("hot", "wet", "very loud")
    defaults = {"lr": 0.5, "rounds": 5, "batch_size": 16}

    def model(self):
        return nn.Linear(5, 3)

    def make(self, n, seed):
        x = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
        return Examples(x, x[:, :3] > 0.4, where=f"tags {seed}")

    def train_data(self, path):
        return self.make(300, 1)

    def held_out(self, path):
        return self.make(100, 2)
"""
LINES = """
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from flctl import Classification, Examples

class Lines(list):
    def __getitem__(self, at):
        if at == 7:
            raise OSError("line 7 is torn")
        return super().__getitem__(at)

class Seqs(Classification):
    name, classes = "seqs", ("down", "up")
    defaults = {"lr": 0.5, "rounds": 3, "batch_size": 8}

    def model(self):
        return nn.Linear(2, 2)

    def make(self, n, seed):
        x = Lines(torch.linspace(0, at % 2 * 2 - 1, 4 + at % 5) for at in range(n))
        names = [f"{seed}/{at}" for at in range(n)]
        return Examples(x, torch.arange(n) % 2, classes=2, names=names)

    def train_data(self, path):
        return self.make(100, 1)

    def held_out(self, path):
        return self.make(40, 2)

    def collate(self, examples):
        x = [each for each, _ in examples]
        sizes = torch.tensor([len(each) for each in x])
        padded = pad_sequence(x, batch_first=True)
        return {"values": padded, "sizes": sizes}, torch.stack([y for _, y in examples])

    def apply(self, model, x):
        return model(torch.stack([x["values"].sum(1), x["sizes"].float()], 1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A task in the current folder, by the text of its module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name):
        (tmp_path / f"own_{name.lower()}.py").write_text(text)
        return f"own_{name.lower()}:{name}"

    yield write
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_labels_are_measured_and_predicted_one_by_one(flctl, own, tmp_path):
    ref, state = own(TAGS, "Tags"), tmp_path / "state"
    done = flctl("tasks", "check", ref)
    assert done.code == 0 and "3 labels: hot, wet, very loud" in done.out, done.out
    run = "train", "--task", ref, "--virtual", 3, "--state", state, "--partition", "label"
    assert flctl(*run).code == 0
    (folder,) = (state / "runs").iterdir()
    best = folder / "best.safetensors"
    assert "very loud" in (shown := flctl("evaluate", best, "--task", ref).out)
    assert "precision" in shown and "recall" in shown and "F1" in shown
    predict = "predict", best, tmp_path, "--task", ref
    told = json.loads(flctl(*predict, "--json").out)
    assert told["right"] > 60 and all(set(p["probabilities"]) for p in told["predictions"])
    assert ["very loud"] in [p["true"] for p in told["predictions"]]
    done = flctl(*predict, "--rows", 3, "--plot", tmp_path / "p.png")
    assert "have exactly the labels that the file says" in done.out and done.code == 0
    assert flctl(*predict, "--threshold", 1).code == 2
    assert "very loud" in flctl("data", "describe", "--task", ref).out


def test_sequences_with_a_torn_one_are_learnt(flctl, own, tmp_path):
    """It is named, counted in the journal, and shown; virtual and real agents agree."""
    ref, state = own(LINES, "Seqs"), tmp_path / "state"
    done = flctl("tasks", "check", ref)
    assert done.code == 0 and "+ [8] int64" in done.out, done.out
    shared = "--task", ref, "--state", state, "--partition", "size", "--json"
    models = []
    for kind in ("--virtual", "--local"):
        done = flctl("train", kind, 2, *shared)
        assert done.code == 0, done.err
        last = json.loads(done.out.splitlines()[-1])
        models.append((state / "runs" / last["run"] / "last.safetensors").read_bytes())
        shown = flctl("runs", "show", last["run"], "--state", state).out
        assert "left out 1 example that cannot be read: its log names them" in shown
    assert models[0] == models[1]
    model = state / "runs" / last["run"] / "last.safetensors"
    done = flctl("predict", model, tmp_path, "--task", ref, "--json")
    told = json.loads(done.out)
    assert (told["examples"], told["right"]) == (39, 39)
    assert "2/7 (example 7 of" in told["note"] and "line 7 is torn" in told["note"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(Task):\n    classes = ('a', 'b')", "derive it from flctl.Classification"),
        ("(Regression):\n    metrics = (Metric('accuracy'),)\n    primary = 'accuracy'",
         "accuracy is not for that"),
        ("(Regression):\n    unit = 'a\\nb'", "its metrics: "),
        ("(Classification):\n    pass", "does not say its 'classes'"),
    ],
)  # fmt: skip
def test_a_kind_that_does_not_fit_is_one_line(flctl, tmp_path, monkeypatch, body, words):
    module = f"odd_{abs(hash(body))}"
    head = "from flctl import Classification, Metric, Regression, Task\n"
    (tmp_path / f"{module}.py").write_text(f"{head}class Own{body}\n    name = 'own'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = flctl("tasks", "check", f"{module}:Own")
    assert done.code == 1 and words in done.out, done.out
    assert "Traceback" not in done.out + done.err
