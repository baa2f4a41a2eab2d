"""The command `flctl`, also as `python -m flctl`."""

import contextlib
import os
import sys
import threading


def main() -> None:
    if sys.argv[1:] == ["health"] and "FLCTL_STATE" in os.environ:
        sys.exit(_health())
    ending = None
    try:
        # First of all: most of a short command's time goes into the imports that follow.
        from flctl.process import Ending, open_streams

        open_streams()
        ending = Ending()
        from flctl.cli.app import app
        from flctl.cli.errors import run

        code = run(app, sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    if ending is not None:
        ending.over()
    _leave(code if ending is None or ending.signal is None else 128 + ending.signal)


def _leave(code: int) -> None:
    """A thread that a user's task has left behind must not keep the command from ending."""
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if all(thread.daemon for thread in others):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _health() -> int:
    """A container asks every half minute: a fifth of a second of a Pi 3 and not two of them."""
    from pathlib import Path

    from flctl.transport.health import ask, in_words

    folder = Path(os.environ["FLCTL_STATE"])
    well, text = in_words(folder, ask(folder))
    print(text)
    return 0 if well else 1


if __name__ == "__main__":
    main()
