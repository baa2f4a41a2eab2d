"""A link that its owner drops without closing it, as a notebook does whose cell runs again."""

import subprocess
import sys

DROPPED = """
import gc, sys
from flctl.transport.keypair import KeyPair
from flctl.transport.link import ZeroMqLink

key = KeyPair.make()
link = ZeroMqLink("127.0.0.1:9", KeyPair.make(), (key.public,), uniform=lambda low, _: low)
link.reopen()
link.itself = link  # collected with its context and its sockets, not before them
del link
gc.collect()
print("collected")
"""


def test_a_dropped_link_does_not_stop_the_process():
    done = subprocess.run(
        [sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("collected\n", "")
