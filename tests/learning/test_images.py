"""Task `images`: folders of classes, and images that a stranger may have put there."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from flctl.errors import DataError, OtherData, TaskError
from flctl.learning import pictures
from flctl.learning.loader import in_order
from flctl.learning.pictures import decode, list_folder
from flctl.learning.task import initial_model, load_task
from flctl.terminal import datasets
from flctl.terminal.datasets import describe, split


def put(folder, name, shade=0, size=(40, 30), mode="RGB"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade).save(path)
    return path


@pytest.fixture
def zoo(tmp_path):
    """Five images of each of two classes, one of them as JPEG."""
    for at in range(5):
        put(tmp_path, f"cat/{at}.png", 10 * at)
        put(tmp_path, f"dog/{at}.jpg", 100 + 10 * at)
    return tmp_path


def images(path=None, **args):
    task = load_task("images", {"size": 32, **args})
    task.settle(path)
    return task


def test_folders_are_classes_and_the_last_fifth_is_for_testing(zoo):
    task = images(zoo)
    train, test = task.train_data(zoo), task.held_out(zoo)
    assert task.classes == ("cat", "dog") and task.all_args["classes"] == ["cat", "dog"]
    assert train.targets.tolist() == [0] * 4 + [1] * 4 and test.targets.tolist() == [0, 1]
    assert "cat/4.png" in test.names[0] and not train.rows() & test.rows()


def test_folders_train_and_test_say_the_split_themselves(tmp_path):
    """Files of one name in both are not the same image."""
    for at in range(3):
        put(tmp_path, f"train/cat/{at}.png", 10)
        put(tmp_path, f"train/dog/{at}.png", 20)
        put(tmp_path, f"test/cat/{at}.png", 30, size=(50, 50))
    task = images(tmp_path)
    assert len(task.train_data(tmp_path)) == 6 and len(task.held_out(tmp_path)) == 3
    assert not task.train_data(tmp_path).rows() & task.held_out(tmp_path).rows()


def test_classes_have_the_order_of_the_run_on_every_agent(zoo):
    """One that an agent lacks is fine, a folder of no class is one line."""
    task = images(zoo, classes=["owl", "dog", "cat"])
    assert set(task.train_data(zoo).targets.tolist()) == {1, 2}
    with pytest.raises(DataError, match="the folder 'dog' is no class of this run \\(cat, owl\\)"):
        images(zoo, classes=["cat", "owl"]).train_data(zoo)


def test_images_are_read_when_a_batch_needs_them_and_a_broken_one_is_left_out(zoo, caplog):
    (zoo / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    task = images(zoo)
    train = task.train_data(zoo)
    batches = list(in_order(task, train, 4))
    assert sum(len(y) for _, y in batches) == 7 and batches[0][0].dtype == torch.uint8
    (why,) = train.broken.values()
    assert "cannot be read" in why and "cat/1.png" in caplog.text


def test_images_none_of_which_can_be_read_are_one_line(zoo):
    """Which says how many and names one, to who looks at the data and to who trains."""
    for file in {*zoo.glob("*/*")} - {zoo / "dog/3.jpg"}:
        file.write_bytes(b"junk")
    describe(zoo, "images", {}, None, json=False)  # one can be read
    (zoo / "dog/3.jpg").write_bytes(b"junk")
    why = r"\w+/0.\w+, 4 bytes \(.*\): cannot be read: cannot identify image file$"
    with pytest.raises(DataError, match=f"no example of 10 can be read; {why}"):
        describe(zoo, "images", {}, None, json=False)
    task = images(zoo)
    with pytest.raises(TaskError, match=f"'images', .*: no example of 8 can be read; {why}"):
        list(in_order(task, task.train_data(zoo), 4))


def test_describe_counts_and_names_broken_images(zoo, capsys, monkeypatch):
    """Of all parts; it said nothing of them. Where there are too many to read, of how many."""
    for name in ("cat/1.png", "cat/4.png", "dog/0.jpg", "dog/1.jpg"):
        (zoo / name).write_bytes(b"junk")
    describe(zoo, "images", {}, None, json=False)
    out = capsys.readouterr().out
    assert "Read: left out: examples that cannot be read: cat/1.png, 4 bytes (" in out
    assert "; dog/1.jpg, 4 bytes (" in out and "image file and 1 more (4)" in out
    monkeypatch.setattr(datasets, "LOOKING_S", -1)
    (zoo / "cat" / "0.png").write_bytes(b"junk")
    describe(zoo, "images", {}, None, json=True)
    (read,) = json.loads(capsys.readouterr().out)["read"]
    ((why, count),) = read["left_out"].items()
    assert why.startswith("examples that cannot be read (of the first 1): cat/0.png") and count == 1


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    """Grey, palette, transparent, 16 bits, CMYK."""
    for mode, shade, red in (
        ("L", 80, 80), ("LA", (80, 255), 80), ("RGBA", (80, 9, 9, 255), 80),
        ("RGBA", (80, 9, 9, 0), 255), ("1", 1, 255), ("I;16", 80 * 256, 80), ("P", 0, 0),
    ):  # fmt: skip
        path = put(tmp_path, f"{mode.replace(';', '')}.png", shade, mode=mode)
        x = decode(path, 32)
        assert x.shape == (3, 32, 32) and x.dtype == torch.uint8
        assert abs(int(x[0, 16, 16]) - red) <= 1, mode
    cmyk = put(tmp_path, "cmyk.jpg", (0, 0, 0, 0), mode="CMYK")
    assert int(decode(cmyk, 32).min()) > 240


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    """EXIF's orientation 6: the camera was held on its side."""
    array = np.zeros((40, 40, 3), np.uint8)
    array[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "side.png", exif=exif)
    x = decode(tmp_path / "side.png", 32)
    assert int(x[0, 4, 16]) == 255 and int(x[0, 28, 16]) == 0


def bomb(width, height):
    """A PNG of a few bytes that says it is so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9_000, 9_000), (12_000, 12_000), (60_000, 60_000), (1, 2**31)])
def test_a_decompression_bomb_is_not_unpacked(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(DataError, match=r"pixels|cannot be read"):
        decode(path, 32)


def test_another_format_under_the_name_of_a_png_is_not_decoded(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "TIFF")
    (tmp_path / "x.png").write_bytes(file.getvalue())
    with pytest.raises(DataError, match="cannot be read"):
        decode(tmp_path / "x.png", 32)


def test_too_large_a_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="larger than"):
        decode(put(tmp_path, "x.png"), 32)


def test_nothing_outside_of_the_folder_is_read(zoo, tmp_path_factory):
    """Links of files and of whole folders, and a pipe, are counted or passed over."""
    outside = tmp_path_factory.mktemp("outside")
    put(outside, "secret.png", 7)
    (zoo / "cat" / "link.png").symlink_to(outside / "secret.png")
    (zoo / "fox").symlink_to(outside)
    (zoo / "cat" / "within.png").symlink_to(zoo / "dog" / "0.jpg")
    (zoo / "cat" / "notes.txt").write_text("x")
    os.mkfifo(zoo / "cat" / "pipe.png")
    found = list_folder(zoo)
    assert found.classes == ("cat", "dog") and len(found.sources) == 11
    assert found.left_out == {
        "links that lead out of the folder": 2, "files that are no JPEG or PNG": 1,
    }  # fmt: skip


def test_shares_written_into_the_folder_are_no_class(zoo, capsys):
    """They became one, and `flctl data describe` of other data took their picture for an image.
    Their folder itself is not trained on, which a hint explains."""
    given = {"partition": "iid", "alpha": None, "seed": 1, "virtual": 2, "task_args": {}}
    split(zoo, zoo / "shares", "images", given, force=False, json=True)
    found = list_folder(zoo)
    assert found.classes == ("cat", "dog")
    assert found.left_out == {"folders with shares that flctl data split has written": 1}
    with pytest.raises(DataError, match=r"no images for training; name the share of one agent$"):
        images(zoo / "shares").train_data(zoo / "shares")


def test_a_link_to_itself_is_passed_over(zoo):
    """It ended the command: RuntimeError."""
    (zoo / "cat" / "loop.png").symlink_to("loop.png")
    assert len(list_folder(zoo).sources) == 10


def test_what_holds_no_classes_is_one_line(tmp_path):
    put(tmp_path, "alone.png")
    for path in (tmp_path, tmp_path / "alone.png"):
        with pytest.raises(OtherData, match="holds no folders with JPEG or PNG images"):
            images(path)
    with pytest.raises(DataError, match="nowhere: "):
        images(tmp_path / "nowhere")
    with pytest.raises(TaskError, match="to find the classes in"):
        load_task("images").model()


def test_images_without_classes_are_predicted(zoo):
    task = images(zoo)
    for path, n in ((zoo / "cat", 5), (zoo / "cat" / "2.png", 1)):
        cases = task.cases(path)
        assert not cases.labelled and len(cases.examples) == n
        assert cases.examples.group[0].endswith(".png")
    assert task.cases(zoo).labelled and len(task.cases(zoo).examples) == 10


def test_inputs_are_varied_in_training_alone_by_torchs_generator(zoo):
    task = images(zoo, flip=True)
    x = next(in_order(task, task.train_data(zoo), 8))[0]
    x = x ^ torch.randint(0, 255, x.shape, dtype=torch.uint8)
    assert torch.equal(task.inputs(x, training=False), task.inputs(x, training=False))
    torch.manual_seed(1)
    one = task.inputs(x, training=True)
    torch.manual_seed(1)
    assert torch.equal(one, task.inputs(x, training=True))
    assert not torch.equal(one, task.inputs(x, training=True))


def test_mobilenet_is_that_of_torchvision():
    """Tensor by tensor, so that its weights fit, and to the last bit in what it computes."""
    from flctl.learning.picture_nets import MobileNetV3Small
    from flctl.learning.vision import import_torchvision

    import_torchvision()
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(1)
    own, theirs = MobileNetV3Small(10), mobilenet_v3_small(weights=None, num_classes=10)
    own.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(own.eval()(x), theirs.eval()(x))
    spread = {n: float(p.detach().std()) for n, p in own.named_parameters() if p.ndim > 1}
    torch.manual_seed(1)
    for name, p in MobileNetV3Small(10).named_parameters():
        if p.numel() > 2000:
            assert abs(float(p.detach().std()) / spread[name] - 1) < 0.1, name


@pytest.mark.parametrize("net", ["small", "mobilenet_v3_small"])
def test_a_frozen_network_trains_its_last_layer_alone(zoo, net):
    model = initial_model(images(zoo, net=net, freeze=True), 1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 and trained == [name for name, _ in model.named_parameters()][-2:]


def test_what_is_dealt_is_written_and_read_back(zoo, tmp_path):
    task = images(zoo)
    train, test = task.train_data(zoo), task.held_out(zoo)
    task.write(tmp_path / "share", train, {"test": test})
    assert task.train_data(tmp_path / "share").digest == train.digest
    assert task.held_out(tmp_path / "share").digest == test.digest


def test_the_sample_is_the_same_each_time():
    task = images()
    assert task.train_data(None).digest == images().train_data(None).digest
    assert len(task.train_data(None)) == 320 and len(task.held_out(None)) == 80
