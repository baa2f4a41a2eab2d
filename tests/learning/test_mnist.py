import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from flctl.errors import DataError
from flctl.learning.mnist import Mnist
from flctl.learning.mnist_net import Net


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write(folder: Path, *, parts: tuple[str, ...] = ("train", "t10k"), packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in zip(parts, (12, 5), strict=False):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            file = folder / f"{part}-{name}-ubyte"
            if packed:
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                file.write_bytes(idx(array))
    return folder


def test_the_network_is_that_of_the_guide():
    """431,080 parameters in layers of these shapes; log-probabilities come out."""
    net = Net()
    assert sum(p.numel() for p in net.parameters()) == 431_080
    assert {name: tuple(p.shape) for name, p in net.named_parameters() if "weight" in name} == {
        "conv1.weight": (20, 1, 5, 5),
        "conv2.weight": (50, 20, 5, 5),
        "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }
    assert torch.allclose(net(torch.randn(2, 1, 28, 28)).exp().sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", [".", "MNIST/raw", "FashionMNIST/raw"])
def test_files_are_found_packed_or_not_in_each_layout(tmp_path, layout, packed):
    """And nothing is written beside them."""
    write(tmp_path / layout, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    task = Mnist()
    train = task.train_data(tmp_path)
    assert (len(train), len(task.test_parts(tmp_path)["test"])) == (12, 5)
    assert len(task.held_out(tmp_path)) == 5
    assert train.y.tolist() == [*range(10), 0, 1]
    assert sorted(tmp_path.rglob("*")) == before
    expected = np.random.default_rng(12).integers(0, 256, (12, 28, 28))
    inputs = task.inputs(train.x, training=True)
    assert inputs.shape == (12, 1, 28, 28)
    assert np.allclose(inputs[:, 0], (expected / 255 - 0.1307) / 0.3081, atol=1e-5)


def test_an_agent_may_own_nothing_but_training_files(tmp_path):
    """Then it holds nothing out, and cannot serve for testing."""
    write(tmp_path, parts=("train",))
    assert Mnist().held_out(tmp_path) is None
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte .* for testing is missing"):
        Mnist().test_parts(tmp_path)


def test_damaged_files_are_errors_of_one_line(tmp_path):
    """Not packed with gzip, cut off, of another kind, with too few labels."""
    plain = idx(np.zeros((12, 28, 28)))
    for content in (
        b"hello",
        b"",
        gzip.compress(b""),
        gzip.compress(b"hello"),
        gzip.compress(plain)[:50],
        gzip.compress(plain[:-1]),
        gzip.compress(idx(np.zeros(12))),
        gzip.compress(idx(np.zeros((12, 14, 14)))),
        gzip.compress(idx(np.zeros((11, 28, 28)))),
    ):
        write(tmp_path)
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(DataError) as caught:
            Mnist().train_data(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_without_files_says_what_is_expected(tmp_path):
    """Empty, missing, or a file."""
    with pytest.raises(DataError, match=r"no IDX files \(train-images-idx3-ubyte.*t10k-labels"):
        Mnist().train_data(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        Mnist().train_data(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"is a file; name the folder that holds .*t10k-images"):
        Mnist().train_data(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("Error downloading train-images:\nno route to host", ".*no route to host"),
        (
            "Error downloading x:\nTried https://a/, got:\n<urlopen error [Errno -2] Name or "
            "service not known>\nTried https://b/, got:\n<urlopen error timed out>\n",
            "Name or service not known",
        ),
    ],
)
def test_without_a_folder_and_without_a_way_out_the_error_says_what_to_give(
    tmp_path, monkeypatch, error, reason
):
    """torchvision's own download is tried, into the user's cache."""
    from flctl.learning.vision import import_torchvision

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError(error)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", refuse)
    with pytest.raises(DataError, match=rf"\({reason}\); name a folder with its IDX files"):
        Mnist().train_data(None)


def test_a_download_is_read_from_the_cache(tmp_path, monkeypatch):
    """Once it is there nothing is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "flctl/torchvision/MNIST/raw", packed=False)
    assert len(Mnist().train_data(None)) == 12


def test_local_files_are_read_without_torchvision(tmp_path, monkeypatch):
    """It is needed for the download alone."""
    from flctl.learning import idx

    def missing():
        raise AssertionError("torchvision was asked for")

    monkeypatch.setattr(idx, "import_torchvision", missing)
    images = torch.arange(2 * 28 * 28).reshape(2, 28, 28) % 256
    idx.write_part(tmp_path, "train", images.numpy(), np.array([3, 9]))
    found, labels = idx.read_part(tmp_path, "train")
    assert np.array_equal(found, images) and labels.tolist() == [3, 9]
