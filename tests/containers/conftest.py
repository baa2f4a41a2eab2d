"""The engine and the images, once for all tests here: `make test-containers`."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(mark.name == "timeout" for mark in item.iter_markers()):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def docker_answers() -> None:
    if engine.run("docker", "version", check=False).returncode:
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def images() -> None:
    """Of the agent and the coordinator, for this machine."""
    for what in ("agent", "coordinator"):
        sys.stderr.write(engine.build(what))


@pytest.fixture(scope="session")
def project_name() -> str:
    return f"flctl-test-{os.getpid()}"
