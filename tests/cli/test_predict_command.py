import json

import numpy as np
import pytest

from flctl.learning.ecg import Ecg
from flctl.learning.state import checkpoint_metadata, save_state
from flctl.learning.task import initial_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that says N of beats whose R peak points up, V of others; it has learnt a little."""
    return save(tmp_path_factory.mktemp("model") / "model.safetensors", trained())


def trained():
    import torch

    torch.manual_seed(1)
    task, x = Ecg(), torch.from_numpy(beats(60)[0])
    y = torch.from_numpy(beats(60)[1])
    model = initial_model(task, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        task.loss(model(task.inputs(x, training=True)), y).backward()
        optimizer.step()
    return model


def save(path, model, task="ecg"):
    with path.open("wb+") as file:
        save_state(file.fileno(), model.state_dict(), checkpoint_metadata(task))
    return path


def beats(n):
    """R peaks up (N) and down (V) by turns, int16 (n, 187), and their classes."""
    t = np.arange(187)
    y = np.where(np.arange(n) % 2 == 0, 0, 2)
    wave = 200 * np.exp(-(((t - 62) / 3) ** 2))
    noise = np.random.default_rng(1).normal(0, 5, (n, 187))
    return (np.where(y == 0, 1, -1)[:, None] * wave + noise).astype(np.int16), y


def as_csv(path, n=30, label=True):
    x, y = beats(n)
    np.savetxt(path, np.c_[x, y] if label else x, delimiter=",", fmt="%d")
    return path


def test_parity_21_one_beat_from_a_sensor_is_diagnosed(flctl, tmp_path, checkpoint):
    """A CSV with 187 numbers gives the class and its probability, and the next two."""
    done = flctl("predict", checkpoint, as_csv(tmp_path / "beat.csv", n=1, label=False))
    assert (done.code, done.err) == (0, "")
    names, row, *read = done.out.splitlines()
    assert names.split() == ["#", "line", "class", "probability", "else"]
    assert all(line.startswith("Read: ") for line in read) and read
    number, line, letter, word, probability, *others = row.split()
    assert (number, line, letter, word) == ("1", "1", "N", "normal")
    assert float(probability) > 0.9
    assert len(others) == 4


def test_a_long_table_is_cut_and_summed_up(flctl, tmp_path, checkpoint):
    """Twenty rows, or as many as asked for, what is left out, how many of each class."""
    file = as_csv(tmp_path / "beats.csv")
    lines = flctl("predict", checkpoint, file).out.splitlines()
    assert lines[21] == "… and 10 more; --rows 0 shows all, as does --json"
    assert [line.split()[-3:] for line in lines[-4:-2]] == [["15", "50.0", "%"]] * 2
    assert lines[-1] == "30 of 30 are of the class that the file says (100.0 %)."
    whole = flctl("predict", checkpoint, file, "--rows", 0).out.splitlines()
    assert len([line for line in whole if not line.startswith("Read: ")]) == 1 + 30 + 6
    assert "and 28 more" in flctl("predict", checkpoint, file, "--rows", 2).out


def test_json_says_all(flctl, tmp_path, checkpoint):
    """Each beat with its number, record, class, probability and the first three classes."""
    done = flctl("predict", checkpoint, as_csv(tmp_path / "b.csv"), "--json")
    told = json.loads(done.out)
    assert told["examples"] == 30
    assert told["counts"] == {"N": 15, "S": 0, "V": 15, "F": 0, "Q": 0}
    assert told["right"] == 30
    assert [beat["number"] for beat in told["predictions"]] == list(range(1, 31))
    first = told["predictions"][0]
    assert (first["record"], first["true"], first["class"], first["at_s"]) == ("b", "N", "N", None)
    assert first["top"][0] == {"class": "N", "probability": first["probability"]}
    probabilities = [entry["probability"] for entry in first["top"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("labelled", [True, False])
def test_csv_and_npz_say_the_same(flctl, tmp_path, checkpoint, labelled):
    """With classes and without."""
    x, y = beats(30)
    np.savez(tmp_path / "b.npz", X=x, **({"y": y} if labelled else {}))
    files = (tmp_path / "b.npz", as_csv(tmp_path / "b.csv", label=labelled))
    told = [json.loads(flctl("predict", checkpoint, file, "--json").out) for file in files]
    assert [p.pop("line") for p in told[1]["predictions"]] == [*range(1, 31)]
    assert [p.pop("line") for p in told[0]["predictions"]] == [None] * 30
    assert told[0]["predictions"] == told[1]["predictions"]
    assert (told[0]["right"] is not None) == labelled


def test_a_record_tells_the_time_of_each_beat(flctl, mitdb_dir, checkpoint):
    """And, of several, which one it is of."""
    lines = flctl("predict", checkpoint, mitdb_dir / "106.hea", "--rows", 1).out.splitlines()
    assert lines[0].split()[:3] == ["#", "at", "class"]
    assert lines[1].split()[1:3] == ["0.97", "s"]
    lines = flctl("predict", checkpoint, mitdb_dir, "--rows", 1).out.splitlines()
    assert lines[1].split()[:2] == ["1", "106"]
    assert "6,964 are of the class" in lines[-1]


def test_found_r_peaks_are_said_to_be_so(flctl, mitdb_dir, tmp_path, checkpoint):
    """A record without annotations."""
    for suffix in ("hea", "dat"):
        (tmp_path / f"119.{suffix}").write_bytes((mitdb_dir / f"119.{suffix}").read_bytes())
    done = flctl("predict", checkpoint, tmp_path / "119.hea", "--rows", 1)
    assert "true" not in done.out
    assert "Note: the R peaks were found by a program" in done.out.splitlines()[-1]


@pytest.mark.parametrize("n", [1, 3, 30])
def test_the_picture_is_drawn(flctl, tmp_path, checkpoint, n):
    """Of one beat, of less than a row, of some of many."""
    picture = tmp_path / "beats.png"
    done = flctl("predict", checkpoint, as_csv(tmp_path / "b.csv", n=n), "--plot", picture)
    assert done.code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.out.splitlines()[-1] == f"Look at {picture}."


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_name_of_the_picture_says_its_format(flctl, tmp_path, checkpoint, suffix, begins):
    picture = tmp_path / f"beats.{suffix}"
    done = flctl("predict", checkpoint, as_csv(tmp_path / "b.csv", n=3), "--plot", picture)
    assert done.code == 0
    assert picture.read_bytes().startswith(begins)


def test_the_picture_shows_every_class():
    """The first examples of each, by turns, in their order."""
    from flctl.records.plots.predictions import choose

    assert choose([0] * 50 + [1, 2, 1], 6) == [0, 1, 2, 50, 51, 52]
    assert choose([3, 3], 6) == [0, 1]


def test_digits_are_predicted_too(flctl, tmp_path, mnist_dir):
    """Of a folder its images for testing; of one file of images those, without classes."""
    from flctl.learning.mnist import Mnist

    model = save(tmp_path / "digits.safetensors", initial_model(Mnist(), seed=1), "mnist")
    done = flctl("predict", model, mnist_dir, "--rows", 1, "--plot", tmp_path / "digits.png")
    assert (done.code, done.err) == (0, "")
    assert "of 10,000 are of the class that the file says" in done.out
    images = mnist_dir / "t10k-images-idx3-ubyte.gz"
    told = json.loads(flctl("predict", model, images, "--json").out)
    assert (told["examples"], told["right"]) == (10_000, None)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    done = flctl("predict", model, as_csv(tmp_path / "b.csv"))
    assert done.code == 1
    assert "not an IDX file of this kind" in done.complaint


def test_bad_arguments_are_one_line(flctl, tmp_path, checkpoint):
    """And no picture takes the place of what is read."""
    file = as_csv(tmp_path / "b.csv")
    link = tmp_path / "b.png"
    link.symlink_to(file)
    for args, code, message in (
        ((checkpoint, tmp_path / "nothing.csv"), 2, "no such file or folder"),
        ((checkpoint, tmp_path / "b"), 2, f"did you mean {file}?"),
        ((file, file), 1, "not a checkpoint of flctl"),
        ((tmp_path / "no.safetensors", file), 1, "cannot be read"),
        ((checkpoint, file, "--task", "mnist"), 1, "another model"),
        ((checkpoint, file, "--device", "abacus"), 2, "write auto, cpu or cuda"),
        ((checkpoint, file, "--plot", file), 2, "a picture's name ends with .png"),
        ((checkpoint, file, "--plot", link), 2, "name another"),
        ((checkpoint, file, "--plot", tmp_path / "no" / "p.png"), 2, "cannot write"),
    ):
        done = flctl("predict", *args)
        assert done.code == code
        assert message in done.complaint
    assert len(file.read_text().splitlines()) == 30
