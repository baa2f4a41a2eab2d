"""Python loads this before everything else in the processes under test: takes away what
FLCTL_WITHOUT names."""

import os
import sys

without = os.environ.get("FLCTL_WITHOUT", "").split(",")
if "torch" in without:
    sys.modules["torch"] = None  # as if it were not installed: also for find_spec
if "linux" in without:
    import mac

    mac.install()
