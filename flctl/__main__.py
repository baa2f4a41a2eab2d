"""The command `flctl`, also as `python -m flctl`."""

import sys


def main() -> None:
    from flctl.cli.app import app
    from flctl.cli.errors import run

    sys.exit(run(app, sys.argv[1:]))


if __name__ == "__main__":
    main()
