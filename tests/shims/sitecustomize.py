"""Python loads this before everything else in the processes under test: takes away what
FLCTL_WITHOUT names."""

import os
import sys

if "torch" in os.environ.get("FLCTL_WITHOUT", "").split(","):
    sys.modules["torch"] = None  # as if it were not installed: also for find_spec
