from collections.abc import Generator
from pathlib import Path

import pytest
from agent_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Generator[Rig, None, None]:
    """An agent that has dialled and not been heard yet."""
    made = Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def ready(rig: Rig) -> Rig:
    """An agent that was welcomed and has described its data."""
    rig.welcome()
    return rig
