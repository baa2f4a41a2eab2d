"""Which existing Ray cluster a run is computed on."""

import logging
import os
import signal
import socket
import threading

from flctl.errors import NeedsExtra, UsageError, one_line

ANSWER_S = 5.0
SETTINGS = 4
"""The first frame of either end of HTTP/2, which gRPC speaks."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))
_connected = threading.Event()
"""By this module, not by the program that uses it."""


def connect(address: str | None) -> None:
    """Raises UsageError when there is no cluster, NeedsExtra without ray."""
    try:
        import ray
    except ImportError as error:
        raise NeedsExtra("engine ray needs the package: pip install 'flctl[ray]'") from error
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    _expect_answer(address)
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            namespace="flctl",
            configure_logging=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _absent(address, error) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    _hush()
    _connected.set()


def _hush() -> None:
    """What ray says of its nodes would stand between the events on standard output, and no setting
    of it turns that off."""
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None


def _expect_answer(address: str) -> None:
    """ray itself waits for a quarter of an hour, also where something else answers. Raises
    UsageError."""
    from ray._private import services

    if address.startswith("ray://"):
        raise UsageError(f"{address}: run flctl on a node of the cluster, with its HOST:PORT")
    try:
        found = services.canonicalize_bootstrap_address(address)  # as ray will call it
        host, _, port = str(found).rpartition(":")
        head = _speaks_grpc(host.strip("[]"), int(port))
    except (OSError, ValueError, OverflowError) as error:
        raise _absent(address, error) from error
    if not head:
        raise _absent(address, "something else answers")


def _speaks_grpc(host: str, port: int) -> bool:
    """Raises OSError when there is no answer."""
    with socket.create_connection((host, port), timeout=ANSWER_S) as there:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return True  # what the first bytes are, TLS hides
        there.sendall(HELLO)
        return there.makefile("rb").read(4)[3:] == bytes([SETTINGS])


def _absent(address: str, error: object) -> UsageError:
    where = "here" if address == "auto" else f"at {address}"
    return UsageError(
        f"engine ray: no Ray cluster {where} ({one_line(error):.160}); start one with 'ray start "
        "--head', or name its head with --ray-address HOST:PORT"
    )


def disconnect() -> None:
    if _connected.is_set():
        import ray

        _connected.clear()
        ray.shutdown()
