"""The bed, the seed, and the table of results. `make test-faults` runs what is in this folder;
`make test` only what is marked `smoke`."""

import os
import random
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from bed import Bed
from checker import broken, evidence
from table import Result, as_text, results_of

SEED = int(os.environ.get("FAULTS_SEED", "1"))
"""Of the faults that come at random."""
LONGEST = ("test_agent_crash_points.py", "test_crash_points.py", "test_network.py")
"""These files are dealt first, so that no process has one left when the others are done."""
ROW = pytest.StashKey[Result]()
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("smoke") is None:
            item.add_marker(pytest.mark.faults)
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    if call.when == "call" and ROW in item.stash:
        report.user_properties.append(("fault", item.stash[ROW].plain()))
    return report


def pytest_terminal_summary(terminalreporter) -> None:
    rows = [
        row
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for row in results_of(report)
    ]
    if rows:
        terminalreporter.section(f"faults, seed {SEED}")
        terminalreporter.write_line(as_text(rows))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The same for the same seed and test, whatever else runs."""
    name = zlib.crc32(request.node.nodeid.encode())
    return random.Random(SEED << 32 | name)


@pytest.fixture
def make_bed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Bed]]:
    """Beds that are gone after the test, whatever happens in it. Of a failed one its logs' ends
    are in the report."""
    beds: list[Bed] = []

    def make(*agents: str) -> Bed:
        folder = tmp_path / f"bed-{len(beds)}"
        folder.mkdir()
        beds.append(Bed(folder, agents or ("pi-01", "pi-02")))
        return beds[-1]

    yield make
    for bed in beds:
        if request.node.stash.get(FAILED, False):
            for log in sorted(bed.folder.glob("*.log")):
                print(
                    f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-25:], sep="\n"
                )
        bed.destroy()


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    """Two agents, nothing started yet."""
    return make_bed()


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Result:
    """This test's line in the table; what it measures is written into it."""
    part = Path(request.node.path).stem.removeprefix("test_").replace("_", " ")
    result = request.node.stash[ROW] = Result(part, request.node.name)
    return result


@pytest.fixture
def unbroken(row: Result) -> Callable[..., None]:
    """Ends a bed and checks everything; its arguments are those of `broken`."""

    def check(bed: Bed, run: str, replay: bool = True, **allowed) -> None:
        bed.close()
        found = evidence(bed, run, replay)
        lines = broken(found, **allowed)
        row.checked(found)
        assert not lines, "\n".join(lines)

    return check
