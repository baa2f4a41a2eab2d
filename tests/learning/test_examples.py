import numpy as np
import pytest
import torch

from flctl.errors import DataError
from flctl.learning.examples import Examples, concatenate


def test_a_selection_keeps_order_groups_and_origin():
    """Labels and groups go with their inputs."""
    examples = Examples(
        torch.arange(4.0).reshape(4, 1), torch.tensor([0, 1, 1, 0]), classes=2, group=list("abcd")
    )
    chosen = examples.select(np.array([3, 1]))
    assert chosen.x.tolist() == [[3.0], [1.0]]
    assert chosen.y.tolist() == [0, 1]
    assert chosen.group.tolist() == ["d", "b"]
    assert chosen.histogram().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0), "no examples"),
        (torch.zeros(3, 2), torch.zeros(2), r"3 inputs but labels of shape \[2\]"),
        (torch.zeros(3, 2), torch.zeros(3, 1), r"3 inputs but labels of shape \[3, 1\]"),
        (torch.zeros(3, 2), torch.tensor([0, 2, 0]), "example 1 has label 2, not in 0 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, 0, -1]), "example 2 has label -1"),
        (torch.full((3, 2), torch.inf), torch.zeros(3), "example 0 holds NaN or infinite"),
    ],
)
def test_what_cannot_be_trained_on_is_an_error(x, y, message):
    """It names the origin and the example."""
    with pytest.raises(DataError, match=f"^own.npz: {message}"):
        Examples(x, y, classes=2, where="own.npz")


def test_sets_of_different_shapes_cannot_be_one():
    """The message names the origin."""
    parts = [Examples(torch.zeros(2, n), torch.zeros(2), classes=2) for n in (3, 4)]
    with pytest.raises(DataError, match=r"^folder: .*different shapes"):
        concatenate(parts, "folder")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_containing_goes_by_the_inputs(dtype):
    """Not by their number or order."""
    whole = Examples(torch.arange(4).to(dtype).reshape(4, 1), torch.zeros(4), classes=1)
    part = whole.select(np.array([3, 0]))
    other = Examples(torch.full((2, 1), 7).to(dtype), torch.zeros(2), classes=1)
    assert whole.contains(part) and whole.contains(whole)
    assert not part.contains(whole) and not whole.contains(other)
