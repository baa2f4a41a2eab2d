"""The command `flctl`, also as `python -m flctl`."""

import sys


def main() -> None:
    from flctl.cli.app import app
    from flctl.cli.errors import run
    from flctl.cli.process import Ending, open_streams

    open_streams()
    ending = Ending()
    code = run(app, sys.argv[1:])
    sys.exit(code if ending.signal is None else 128 + ending.signal)


if __name__ == "__main__":
    main()
