"""Where and how torch computes: processor or GPU, threads, determinism."""

import os

import torch

from flctl.errors import SettingsError
from flctl.settings import DeviceName


def set_up(device: DeviceName, threads: int | None = None) -> torch.device:
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
    # As use_deterministic_algorithms(True, warn_only=True), which also loads torch's compiler to
    # set an option of it: that takes as long, and as much memory, as all the rest of torch.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch.set_deterministic_debug_mode("warn")
    # That mode fills new memory, which costs time and is for finding bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return chosen


def pick(device: DeviceName) -> torch.device:
    """Raises SettingsError when "cuda" is asked for and there is none."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise SettingsError("device = cuda, but torch finds no CUDA GPU here; use auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def seed_generators(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed` does, which asks every kind of GPU that there might be: a millisecond
    for each client."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
