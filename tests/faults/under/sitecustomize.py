"""Python loads this before everything else in the processes under test: see `fault_points`."""

import os

if os.environ.get("FLCTL_FAULTS"):
    import fault_points

    fault_points.install(os.environ["FLCTL_FAULTS"])
