"""The way to Docker's engine, and its errors as one line that says what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flctl.errors import EngineError, UsageError, one_line

if TYPE_CHECKING:
    from docker import DockerClient

ANSWER_S = 120
"""An engine on a slow disk takes its time to make twenty containers at once."""


@contextmanager
def engine() -> Iterator["DockerClient"]:
    """Docker's engine, as the `docker` command would find it. Raises EngineError for all that
    goes wrong with it in the block, UsageError when its SDK is not installed."""
    try:
        import docker
    except ImportError as error:
        raise UsageError("emulating needs Docker's SDK: pip install 'flctl[docker]'") from error
    with explained():
        client = docker.from_env(timeout=ANSWER_S)
        try:
            client.ping()
            yield client
        finally:
            client.close()


@contextmanager
def explained(doing: str = "") -> Iterator[None]:
    """Turn every error of Docker in the block into an EngineError about `doing`."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RequestException, Timeout

    before = f"{doing}: " if doing else ""
    try:
        yield
    except APIError as error:
        said = one_line(" ".join(str(error.explanation or error).split()))
        raise EngineError(f"{before}Docker says: {said}") from error
    except Timeout as error:
        raise EngineError(f"{before}Docker at {_where()} did not answer in time") from error
    except (NoConnection, DockerException) as error:
        raise EngineError(f"{before}{_no_way(error)}") from error
    except RequestException as error:
        raise EngineError(f"{before}Docker at {_where()}: {one_line(error)}") from error


def _no_way(error: BaseException) -> str:
    """Why the engine cannot be reached."""
    where = _where()
    kinds = [type(reason) for reason in _reasons(error)]
    if PermissionError in kinds:
        return (
            f"this user may not use Docker's socket ({where}): add it to the group (sudo usermod "
            "-aG docker $USER, then log in again)"
        )
    if {FileNotFoundError, ConnectionRefusedError, ConnectionResetError} & set(kinds):
        return (
            f"Docker is not running: no answer at {where}; start it "
            "(sudo systemctl start docker), or name another engine with DOCKER_HOST"
        )
    return f"cannot reach Docker at {where}: {one_line(error)}"


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that led to it: requests and urllib3 wrap each other's as arguments."""
    while error is not None:
        yield error
        for inner in error.args:
            if isinstance(inner, BaseException):
                yield from _reasons(inner)
        error = error.__cause__ or error.__context__


def _where() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
