"""One fault of each kind on one fleet, the quickest of `make test-faults`."""

import pytest

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(600)]


def test_a_coordinator_that_dies_between_two_rounds_goes_on(bed, row, unbroken):
    """Killed just before it commits a round, and started again: nothing is lost or done twice."""
    row.fault = "coordinator dies before a commit"
    bed.start_coordinator({"die": COMMIT, "nth": 2})
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    run = bed.begin(3)
    assert bed.bury("coordinator") == -9
    assert bed.committed(run) == 1
    bed.start_coordinator()
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


COMMIT = (
    "write RUN/journal.jsonl coordinator/store/journal._write_all<coordinator/store/journal.append<"
    "coordinator/run/round_driver.<lambda>"
)
