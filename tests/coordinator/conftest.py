import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from memory_fleet import MemoryFleet


@pytest.fixture
def make_fleet() -> Iterator[Callable[..., MemoryFleet]]:
    """Fleets that are taken down after the test."""
    made: list[MemoryFleet] = []

    def make(*args: Any, **options: Any) -> MemoryFleet:
        made.append(MemoryFleet(*args, **options))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def fleet(make_fleet: Callable[..., MemoryFleet]) -> MemoryFleet:
    return make_fleet(3)
