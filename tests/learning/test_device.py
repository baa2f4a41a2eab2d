import pytest
import torch

from flctl.errors import SettingsError
from flctl.learning.device import set_up


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)


def test_a_gpu_that_is_not_there_is_an_error_of_the_settings(monkeypatch):
    """The message names what to use instead; `auto` takes the processor."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="finds no CUDA GPU here; use auto or cpu"):
        set_up("cuda")
    assert set_up("auto").type == "cpu"


def test_a_gpu_that_is_there_is_used_unless_the_processor_is_asked_for(monkeypatch):
    """`auto` and `cuda` take it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [set_up(device).type for device in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_threads_and_determinism_are_set():
    """The number of threads that is asked for, and algorithms that repeat themselves."""
    set_up("cpu", threads=2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
