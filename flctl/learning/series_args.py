"""The arguments of task `sensors`: what it learns, and from which columns of a table."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Column = Annotated[str, Meta(min_length=1, max_length=100)]


class SeriesArgs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is empty is taken from the data when a run begins, where there are some."""

    learn: Literal["anomaly", "class", "number"] = "anomaly"
    target: Column = "label"
    """Column with the class or the number; of anomalies with 0 or "normal" for what is none, used
    for testing alone."""
    columns: Annotated[tuple[Column, ...], Meta(max_length=64)] = ()
    """Inputs; empty: all columns of numbers."""
    classes: Annotated[tuple[Column, ...], Meta(max_length=1000)] = ()
    time: Column = "time"
    """Column with seconds, or dates as ISO 8601 writes them."""
    device: Column = "device"
    """Column with the name of the device, if there is one; else each file is one."""
    window: Annotated[int, Meta(ge=2, le=16_384)] = 64
    """Samples in an example."""
    stride: Annotated[int, Meta(ge=0, le=16_384)] = 0
    """Samples from one window to the next; 0: half a window."""
    ahead: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """How many samples after its window a number stands: to forecast it."""
    fill: Annotated[int, Meta(ge=0, le=1000)] = 2
    """Up to so many missing samples in a row are interpolated; a window never spans more."""
    center: Annotated[tuple[float, ...], Meta(max_length=64)] = ()
    """Usual value of each column; empty: that of each device's own training part …"""
    spread: Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(max_length=64)] = ()
    """… and how far values usually are from it."""
    target_center: float | None = None
    """The same of the number that is learnt, for all devices."""
    target_spread: Annotated[float, Meta(gt=0)] | None = None
    unit: Annotated[str, Meta(max_length=20)] = ""
    """Unit of that number."""

    @property
    def step(self) -> int:
        return self.stride or max(1, self.window // 2)
