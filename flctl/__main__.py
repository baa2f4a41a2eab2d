"""The command `flctl`, also as `python -m flctl`."""

import signal
import sys


def main() -> None:
    ending = None
    try:
        # First of all: most of a short command's time goes into the imports that follow.
        from flctl.cli.process import Ending, open_streams

        open_streams()
        ending = Ending()
        from flctl.cli.app import app
        from flctl.cli.errors import run

        code = run(app, sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over: nothing is left to interrupt
    sys.exit(code if ending is None or ending.signal is None else 128 + ending.signal)


if __name__ == "__main__":
    main()
