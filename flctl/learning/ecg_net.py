"""The model of task `ecg`, what it gets of a beat, and how beats are varied in training."""

import math

import torch
from torch import Tensor, nn

from flctl.learning.beats import RATE_HZ, UNITS_PER_MV, WINDOW

RHYTHM = 4
"""Inputs in addition to the window: the intervals before and after, the usual one, and whether
they are known."""
TYPICAL_MS = 800.0
WEIGHT = 6.0
"""Weight of the rhythm, which the many numbers of the window would outweigh."""
WIDEST = 1.0
"""Largest logarithm of a ratio of intervals: more than e times as long says nothing more."""

SHIFT = 2
"""Samples, to both sides: so far apart do two annotators mark a beat."""
GAIN, WANDER_MV, NOISE_MV = 0.2, 0.1, 0.03
UNSTEADY = 0.03, 0.1
"""Spread of the logarithms: of an interval to the usual one, and of that."""
WITHOUT_RHYTHM = 0.1
"""Share of beats that are shown without their rhythm: some files do not say it."""


class EcgNet(nn.Module):
    """What `inputs_of` makes of beats, shape (n, 191), to logits, shape (n, 5).

    Each channel of each beat is normalised by itself: that takes away what differs between
    patients, and unlike batch norm it keeps no running statistics that agents with unlike
    data would pull apart (Hsieh et al. 2020, https://arxiv.org/abs/1910.00189).
    """

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Sequential(
            nn.Unflatten(1, (1, WINDOW)),
            *_block(1, 16, kernel=15, stride=4),
            *_block(16, 24, kernel=7, stride=2),
            *_block(24, 32, kernel=5, stride=2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(32 * 12 + RHYTHM, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        rhythm = WEIGHT * x[:, WINDOW:]
        logits: Tensor = self.head(torch.cat([self.shape(x[:, :WINDOW]), rhythm], dim=1))
        return logits


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    """Half, or for the first a quarter, as many samples come out as go in."""
    return [
        nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2),
        nn.GroupNorm(outputs, outputs),
        nn.ReLU(),
    ]


def inputs_of(x: Tensor, *, training: bool) -> Tensor:
    """Beats as they are stored, shape (n, 190), or (n, 187) of unknown rhythm: mV and four
    numbers of the rhythm, float32, shape (n, 191)."""
    x = x.float()
    shape, ms = x[:, :WINDOW] / UNITS_PER_MV, x[:, WINDOW:]
    if not ms.shape[1]:
        ms = x.new_zeros(len(x), 3)
    known = (ms > 0).all(dim=1, keepdim=True)
    safe = torch.where(known, ms, TYPICAL_MS)
    usual = safe[:, 2:]
    ratios = safe / torch.cat([usual, usual, torch.full_like(usual, TYPICAL_MS)], dim=1)
    rhythm = torch.cat([ratios.log().clamp(-WIDEST, WIDEST), known.float()], dim=1)
    if training:
        shape, rhythm = _varied(shape), _unsteady(rhythm)
    return torch.cat([shape, rhythm], dim=1)


def _varied(x: Tensor) -> Tensor:
    """Beats in mV, shape (n, 187), of another gain, on a wandering baseline, with noise, and a
    little earlier or later. Draws from torch's own generator."""
    n, on = len(x), x.device
    by = torch.randint(-SHIFT, SHIFT + 1, (n, 1), device=on)
    at = torch.arange(WINDOW, device=on)
    x = x.gather(1, (at + by).clamp(0, WINDOW - 1))
    gain, wander, phase, noise = torch.randn(4, n, 1, device=on)
    hertz = 0.1 + 0.7 * torch.rand(n, 1, device=on)
    slow = torch.sin(2 * math.pi * (hertz * at / RATE_HZ) + math.pi * phase)
    slowly = x * (GAIN * gain).exp() + WANDER_MV * wander * slow
    varied: Tensor = slowly + NOISE_MV * noise * torch.randn(n, WINDOW, device=on)
    return varied


def _unsteady(rhythm: Tensor) -> Tensor:
    n, on = len(rhythm), rhythm.device
    spread = torch.tensor([UNSTEADY[0], UNSTEADY[0], UNSTEADY[1], 0.0], device=on)
    kept = torch.rand(n, 1, device=on) >= WITHOUT_RHYTHM
    shaken = rhythm + rhythm[:, 3:] * spread * torch.randn(n, RHYTHM, device=on)
    varied: Tensor = shaken * kept
    return varied
