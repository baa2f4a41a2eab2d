"""Parameter files that live in memory."""

import os
from collections.abc import Mapping

import numpy as np

from flctl.core.strategies import Strategy, combine
from flctl.wire.parameters import ParameterFile, ParameterWriter, dump

Tensors = Mapping[str, tuple[str, np.ndarray]]


def file_of(tensors: Tensors, where: str = "update") -> ParameterFile:
    fd = os.memfd_create(where)
    dump(fd, tensors)
    return ParameterFile(fd, where)


def average(updates: list[Tensors], weights) -> tuple[dict[str, np.ndarray], bytes]:
    """The mean of FedAvg: tensors in their storage type, and the file's bytes."""
    files = [file_of(update) for update in updates]
    out = os.memfd_create("mean")
    try:
        writer = ParameterWriter(out, files[0].specs)
        combine(Strategy(), files[0], files, np.asarray(weights, dtype=np.float64), writer)
        writer.finish()
        mean = ParameterFile(out, "mean")
        tensors = {spec.name: mean.read(spec).reshape(spec.shape) for spec in mean.specs}
        return tensors, os.pread(out, mean.size, 0)
    finally:
        os.close(out)
        for file in files:
            os.close(file.fd)
