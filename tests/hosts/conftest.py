"""The rig, once for the whole story: `make test-hosts`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import ansible.module_utils
import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "containers")]
# Where Ansible itself would find what its modules share.
ansible.module_utils.__path__.append(str(HERE.parents[1] / "ansible" / "module_utils"))

import engine  # noqa: E402
from fleet import Fleet  # noqa: E402
from rig import ENGINE, GUARDED, TRIXIE, Rig  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(mark.name == "timeout" for mark in item.iter_markers()):
            item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server and three Pis, each of another kind, untouched; images of this checkout."""
    if engine.run("docker", "version", check=False).returncode:
        pytest.skip("no Docker engine answers")
    folder = tmp_path_factory.mktemp("hosts")
    kinds = {"pi-01": TRIXIE, "pi-02": GUARDED, "pi-03": ENGINE}
    rig = Rig(f"flctl-hosts-{os.getpid()}", ("server", *kinds), folder / "rig", kinds)
    rig.build()
    for what in ("agent", "coordinator"):
        sys.stderr.write(engine.build(what))
    try:
        rig.up()
        fleet = Fleet(rig, folder)
        fleet.set("flctl_registry", True)
        yield fleet
    finally:
        rig.down()
