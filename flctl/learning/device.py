"""Where and how torch computes: processor or GPU, threads, determinism."""

import os

import torch

from flctl.errors import SettingsError
from flctl.settings import Device


def set_up(device: Device, threads: int | None = None) -> torch.device:
    """Choose the device for this process, and make torch compute the same thing every time.

    `threads` None leaves what torch thinks right. Raises SettingsError when "cuda" is asked
    for and there is none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = pick(device)
    if chosen.type == "cuda":
        # Read by cuBLAS when its first handle is made; without it sums differ between runs.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That mode fills new memory, which costs time and is for finding bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return chosen


def pick(device: Device) -> torch.device:
    """Raises SettingsError when "cuda" is asked for and there is none."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise SettingsError("device = cuda, but torch finds no CUDA GPU here; use auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")
