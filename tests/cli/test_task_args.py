"""Arguments of a task: typed once, the same on all agents, in the run and in its model."""

import json

import pytest

CLASSES = "learn='class',target='state',window=32"


@pytest.fixture(scope="module")
def pumps(tmp_path_factory):
    from flctl.learning.series_sample import sample_files

    folder = tmp_path_factory.mktemp("pumps")
    for name, text in sample_files().items():
        (folder / name).write_text("\n".join(text.splitlines()[:1200]) + "\n")
    return folder


def test_local_agents_get_them_with_their_orders(flctl, pumps, tmp_path):
    """Over real sockets as in a simulation, byte for byte; classes and columns come from the data
    that the run begins with, and stand in its record."""
    bare = tmp_path / "bare.csv"
    lines = (pumps / "pump-01.csv").read_text().splitlines()
    bare.write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))
    models = []
    for how in ("--virtual", "--local"):
        state = tmp_path / how
        done = flctl(
            *("train", "--task", "sensors", how, "2", "--rounds", "2", "--data", pumps),
            *("--task-args", CLASSES, "--state", state),
        )
        assert done.code == 0, done.err
        (run,) = (state / "runs").glob("sensors*")
        text = (run / "run.toml").read_text()
        assert '"classes" = ["emptying", "idle", "pumping"]' in text and '"window" = 32' in text
        assert '"columns" = ["current_a",' in text
        models.append((run / "last.safetensors").read_bytes())
    assert models[0] == models[1]
    model = run / "last.safetensors"
    said = flctl("evaluate", model, "--data", pumps, "--json")
    assert json.loads(said.out)["values"]["accuracy"] > 0.3
    said = json.loads(flctl("predict", model, bare, "--json").out)
    assert said["predictions"][0]["class"] in ("emptying", "idle", "pumping")
    assert said["predictions"][0]["true"] is None
    picture = flctl("runs", "plot", run.name, "--state", state, "--out", tmp_path / "run.png")
    assert picture.code == 0, picture.err


def test_a_file_of_settings_says_them_too(flctl, pumps, tmp_path):
    """And a flag for another task does not take them over."""
    file = tmp_path / "run.toml"
    file.write_text(
        f'task = "sensors"\nvirtual = 2\nrounds = 1\ndata = "{pumps}"\n'
        '[task_args]\nlearn = "number"\ntarget = "flow_l_min"\nunit = "l/min"\n'
    )
    done = flctl("train", file, "--state", tmp_path / "state")
    assert done.code == 0 and "l/min" in done.out + done.err, done.err
    other = flctl("train", file, "--task", "ecg", "--data", "", "--state", tmp_path / "state")
    assert "task_args" not in other.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("windows=8", "task 'sensors' has no argument 'windows'; did you mean 'window'?"),
        ("window='long'", "window: must be a whole number, not text in quotation marks"),
        ("window", "write NAME=VALUE"),
        ("learn='class',target='mood'", "no column 'mood'"),
        ("columns=['noise']", "no column 'noise'"),
        ("center=[nan]", "center must be a finite number"),
    ],
)
def test_a_wrong_argument_is_one_line(flctl, pumps, tmp_path, args, said):
    done = flctl(
        *("train", "--task", "sensors", "--virtual", "2", "--data", pumps),
        *("--task-args", args, "--state", tmp_path),
    )
    assert done.code in (1, 2) and said in done.err and len(done.err.splitlines()) == 1, done.err


def test_a_task_without_arguments_says_so(flctl, tmp_path):
    done = flctl("train", "--task", "ecg", "--virtual", "2", "--task-args", "a=1")
    assert done.code == 2 and "task 'ecg' has no argument 'a'; it has none" in done.err


def test_a_sample_is_written_checked_and_split(flctl, tmp_path):
    """What `data sample` writes is fit for a fleet, and its shares are read back."""
    done = flctl("data", "sample", "sensors", tmp_path / "pumps")
    assert done.code == 0 and "6 files" in done.out
    again = flctl("data", "sample", "sensors", tmp_path / "pumps")
    assert again.code == 2 and "is there already" in again.err
    assert flctl("data", "sample", "ecg", tmp_path / "e").code == 1
    split = flctl(
        *("data", "split", tmp_path / "pumps", "--task", "sensors", "--agents", "3"),
        *("--task-args", CLASSES, "--out", tmp_path / "shares", "--json"),
    )
    assert split.code == 0, split.err
    assert "--task-args" in json.loads(split.out)["command"]
    check = flctl(
        *("tasks", "check", "sensors", "--data", tmp_path / "shares" / "pi-01"),
        *("--task-args", CLASSES),
    )
    assert check.out.splitlines()[-1].endswith("is fit for a fleet"), check.out
    described = flctl("data", "describe", tmp_path / "pumps")
    assert described.code == 0 and "gaps, which no window spans" in described.out


def test_an_agents_owner_can_say_how_the_data_are_read(flctl, tmp_path):
    done = flctl(
        *("agent", "--coordinator", "127.0.0.1:1", "--server-key", "x" * 40),
        *("--state", tmp_path, "--task-args", "window"),
    )
    assert done.code == 2 and "--task-args" in done.err


def test_images_from_folders_to_a_picture(flctl, tmp_path):
    """A sample is described, dealt, trained on, and one image of no class predicted and drawn."""
    shapes = tmp_path / "shapes"
    assert flctl("data", "sample", "images", shapes).code == 0
    for name in ("circle", "cross"):  # fewer are enough
        for file in sorted((shapes / name).iterdir())[20:]:
            file.unlink()
    for name in ("square", "triangle"):
        for file in (shapes / name).iterdir():
            file.unlink()
    (shapes / "circle" / "-broken.png").write_bytes(b"\x89PNG")
    described = flctl("data", "describe", shapes)
    assert described.code == 0 and "circle" in described.out and "square" not in described.out
    shares = tmp_path / "shares"
    split = flctl("data", "split", shapes, "--task", "images", "--agents", "2", "--out", shares)
    assert split.code == 0, split.err
    assert len(list((shares / "pi-01" / "train" / "cross").iterdir())) >= 4
    train = ("train", "--task", "images", "--virtual", "2", "--rounds", "1", "--data", shapes)
    args = "size=32,classes=['cross','circle']"
    done = flctl(*train, "--task-args", args, "--state", tmp_path / "state")
    assert done.code == 0, done.err
    (run,) = (tmp_path / "state" / "runs").glob("images*")
    assert '"broken":1' in (run / "journal.jsonl").read_text().replace(" ", "")
    model, picture = run / "last.safetensors", tmp_path / "said.png"
    photo = shapes / "circle" / "000.png"
    said = flctl("predict", model, photo, "--plot", picture, "--json")
    assert said.code == 0, said.err
    (only,) = json.loads(said.out)["predictions"]
    assert only["record"] == "000.png" and only["class"] in ("cross", "circle")
    assert picture.stat().st_size > 5000
    foreign = flctl(*train, "--task-args", "classes=['cross','square']", "--state", tmp_path)
    assert foreign.code == 1 and "the folder 'circle' is no class of this run" in foreign.err
