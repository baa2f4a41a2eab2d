"""What all tests share: the command line, called in this process, the real data beside the
checkout, one torch thread, no skips in CI."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from threading import current_thread, main_thread
from typing import NamedTuple

import pytest

# Read by torch when it is first imported, here and in every worker that a test starts:
# two threads on a busy two-core machine are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background of a script, or under nohup, a process ignores Ctrl-C or SIGHUP, and so does
# every process that it starts, also those on which a test tries these signals.
if current_thread() is main_thread():
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OPEN_FILES = Path("/proc/self/fd")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr; fails when there are more, or none."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("flctl: ")
        return lines[0].removeprefix("flctl: ")


Flctl = Callable[..., Outcome]


@pytest.fixture
def flctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Flctl]:
    """Runs a command line as the console script does; its state folder is tmp_path/state."""
    from flctl.cli.app import app
    from flctl.cli.errors import run

    monkeypatch.setenv("FLCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")
    root, below = logging.getLogger(), logging.getLogger("flctl.coordinator")
    before = root.handlers[:], root.level, below.level

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        code = run(app, [str(arg) for arg in args])
        return Outcome(code, *capsys.readouterr())

    yield call
    root.handlers[:], root.level = before[0], before[1]
    below.setLevel(before[2])


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Folder with the four genuine IDX files of MNIST."""
    return _shared("mnist")


@pytest.fixture(scope="session")
def mitdb_dir() -> Path:
    """Folder with the WFDB records 106, 119 and 208 of MIT-BIH."""
    return _shared("mitdb")


def _shared(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """A test that changed the number of threads does not change the next one's results."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_open_files() -> Iterator[None]:
    """Tests that leave files open fail here, and not a later one that opens many."""
    yield
    assert not OPEN_FILES.is_dir() or len(list(OPEN_FILES.iterdir())) < 500


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """CI has everything that a test may need, so a test skipped there has not been run."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: skipped in CI, which counts as a failure: {reason}"
