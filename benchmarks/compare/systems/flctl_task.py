"""flctl: the job as a task of one's own; the rest is the command line."""

import os

import job as shared
import numpy as np

from flctl import Classification, Examples


class Logistic(Classification):
    name = "logistic"
    classes = tuple("0123456789")
    validation_share = 0.0  # all of a client's examples are for training

    def model(self):
        return shared.model("lr")

    def train_data(self, path):
        clients, seed = int(os.environ["CLIENTS"]), int(os.environ["SEED"])
        x, y = shared.images(path, "train")
        shards = shared.shards(clients, seed)
        group = np.empty(len(y), dtype="U8")
        for number, rows in enumerate(shards):
            group[rows] = f"{number:04d}"
        return Examples(x, y, classes=10, group=group)

    def held_out(self, path):
        return Examples(*shared.images(path, "test"), classes=10)

    def inputs(self, x, *, training):
        return shared.scaled(x)


class Convolutional(Logistic):
    name = "cnn"

    def model(self):
        return shared.model("cnn")


class Own(Convolutional):
    """Of an agent on a device of its own, whose data lie there."""

    name = "own"

    def train_data(self, path):
        found = np.load(path)
        return Examples(found["x"], found["y"], classes=10)

    def held_out(self, path):
        return None
