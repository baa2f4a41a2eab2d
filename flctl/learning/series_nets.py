"""The networks of task `sensors`, small enough for a Pi."""

from torch import nn

HIDDEN, NECK = 64, 8


def series_net(columns: int, outputs: int) -> nn.Module:
    """Windows, shape (n, columns, samples), to (n, outputs); 10,000 parameters."""
    return nn.Sequential(
        *_block(columns, 16, 7),
        *_block(16, 32, 5),
        *_block(32, 32, 5),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(4 * 32, outputs),
    )


def _block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Half as many samples come out as go in."""
    return [nn.Conv1d(inputs, outputs, kernel, 2, padding=kernel // 2), nn.ReLU()]


def series_autoencoder(columns: int, window: int) -> nn.Module:
    """Windows to eight numbers and back: what is not usual is lost on the way."""
    whole = columns * window
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(whole, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, NECK),
        nn.Linear(NECK, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, whole),
        nn.Unflatten(1, (columns, window)),
    )
