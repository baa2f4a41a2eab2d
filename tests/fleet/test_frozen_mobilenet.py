"""MobileNetV3-small for ten classes, of which two agents train the last layer alone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flctl.fleet.virtual import VirtualRun
from flctl.learning.examples import Examples
from flctl.learning.images import Images
from flctl.learning.picture_nets import MobileNetV3Small
from flctl.learning.source import own_parts
from flctl.learning.state import load_state
from flctl.wire.messages import Shard
from flctl.worker.jobs import DataSource

CLASSES, TRAIN, TEST, SIZE = 10, 24, 20, 32
ARGS = {"net": "mobilenet_v3_small", "freeze": True, "size": SIZE, "augment": False}
ROUNDS, EPOCHS, BATCH, LR = 4, 4, 16, 0.01
LAST = ("classifier.3.weight", "classifier.3.bias")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spotted squares of ten colours, drawn here."""
    folder = tmp_path_factory.mktemp("zoo")
    draw = np.random.default_rng(5)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for kind in range(CLASSES):
            own = folder / part / f"{kind}"
            own.mkdir(parents=True)
            turn = 2 * np.pi * (kind / CLASSES + np.arange(3) / 3)
            for number in range(count):
                colour = 128 + 90 * np.cos(turn) + draw.normal(0, 5, 3)
                pixels = (colour + draw.normal(0, 2, (SIZE, SIZE, 3))).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(own / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """Weights as somebody would bring them: a network whose running statistics fit such images."""
    torch.manual_seed(3)
    net = MobileNetV3Small(CLASSES)
    task = settled(zoo)
    x = pixels(task, task.train_data(zoo))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.features(x)
    path = tmp_path_factory.mktemp("weights") / "backbone.pt"
    torch.save(net.state_dict(), path)
    return path


def settled(zoo: Path) -> Images:
    task = Images().take(ARGS)
    task.settle(zoo)
    return task


def pixels(task: Images, examples: Examples) -> Tensor:
    return task.inputs(torch.stack([examples.items[n] for n in examples.array]), training=False)


def plain(task: Images, zoo: Path, begin: dict[str, Tensor]) -> dict[str, Tensor]:
    """Federated averaging of the last layer as one writes it by hand, with batches of its own."""
    net = MobileNetV3Small(CLASSES)
    net.load_state_dict(begin)
    net.eval()
    torch.manual_seed(11)
    shards = [Shard(index=at, of=2, partition="iid", seed=3) for at in range(2)]
    parts = [own_parts(task, DataSource(path=str(zoo), shard=shard))[0] for shard in shards]
    with torch.no_grad():
        known = [net.avgpool(net.features(pixels(task, part))).flatten(1) for part in parts]
        known = [net.classifier[1](net.classifier[0](x)) for x in known]
    last = {name: begin[name] for name in LAST}
    for _ in range(ROUNDS):
        found = []
        for x, y in zip(known, [part.y for part in parts], strict=True):
            layer = nn.Linear(1024, CLASSES)
            layer.load_state_dict(dict(zip(("weight", "bias"), last.values(), strict=True)))
            optimizer = torch.optim.Adam(layer.parameters(), lr=LR)
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(y)).split(BATCH):
                    optimizer.zero_grad()
                    output = layer(nn.functional.dropout(x[rows], 0.2))
                    nn.functional.cross_entropy(output, y[rows]).backward()
                    optimizer.step()
            found.append([parameter.detach() for parameter in layer.parameters()])
        weights = [len(part) / sum(map(len, parts)) for part in parts]
        last = {
            name: sum(w * own[at] for w, own in zip(weights, found, strict=True))
            for at, name in enumerate(LAST)
        }
    return begin | last


def test_ten_classes_cost_the_last_layer_and_learn_as_in_plain_pytorch(
    tmp_path: Path, zoo: Path, backbone: Path
):
    """Up goes the last layer and little beside; what is frozen is stored once, and stays."""
    given = {
        "task": "images", "task_args": ARGS, "virtual": 2, "partition": "iid", "rounds": ROUNDS,
        "epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "optimizer": "Adam", "seed": 3,
        "data": str(zoo), "from": str(backbone), "keep_rounds": 0,
    }  # fmt: skip
    run = VirtualRun.start(tmp_path, given, "the test")
    history = run.run()
    assert history.state == "finished", history.reason
    last_layer = 4 * (1024 * CLASSES + CLASSES)
    for each in history.rounds:
        for part in each.participants.values():
            assert last_layer <= part.bytes_up <= 1.05 * last_layer

    first = torch.load(backbone, weights_only=True)
    frozen = state(run.folder.frozen_path)
    assert history.started is not None
    digest = hashlib.sha256(run.folder.frozen_path.read_bytes()).hexdigest()
    assert history.started.frozen == digest, "of the whole run"
    assert frozen.keys() == first.keys() - set(LAST)
    assert all(torch.equal(tensor, first[name]) for name, tensor in frozen.items())
    for number in range(ROUNDS + 1):
        assert state(run.folder.model_path(number)).keys() == set(LAST)

    task, found = settled(zoo), {}
    begin = frozen | state(run.folder.model_path(0))
    test = task.held_out(zoo)
    assert test is not None
    x, net = pixels(task, test), MobileNetV3Small(CLASSES)
    models = {
        "flctl": state(run.folder.path / "last.safetensors"),
        "plain": plain(task, zoo, begin),
    }
    for name, tensors in models.items():
        net.load_state_dict(tensors)
        with torch.no_grad():
            found[name] = (net.eval()(x).argmax(1) == test.y).float().mean().item()
    assert found["flctl"] > 0.8
    assert found["flctl"] == pytest.approx(found["plain"], abs=0.01), found


def state(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        return load_state(file.fileno(), str(path))
