"""Decides which keys get in: the ZAP handler of one ZeroMQ context (RFC 27).

Our own and not pyzmq's `ThreadAuthenticator`: that one lets the NULL mechanism through,
ends for good at an exception in its callback, and brings asyncio and an event loop along.
"""

import logging
import threading
from collections.abc import Callable

import zmq
from zmq.utils import z85

from flctl.transport.gate import STRANGER, Gate
from flctl.transport.keypair import shown

logger = logging.getLogger(__name__)

DOMAIN = b"flctl"
ENDPOINT = "inproc://zeromq.zap.01"
_STOP = "inproc://flctl.zap.stop"

Authorise = Callable[[str], bool]


class Gatekeeper:
    """Asks `authorise` about the Z85 public key of every connection, on its own thread.

    Whatever goes wrong, the connection is refused and the next one is judged.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        authorise: Authorise,
        gate: Gate | None = None,
    ) -> None:
        self._authorise, self._gate = authorise, gate or Gate()
        self._requests = context.socket(zmq.REP)
        self._requests.setsockopt(zmq.LINGER, 0)
        self._requests.bind(ENDPOINT)
        self._stopped = context.socket(zmq.PAIR)
        self._stopped.bind(_STOP)
        self._stop = context.socket(zmq.PAIR)
        self._stop.connect(_STOP)
        self._thread = threading.Thread(target=self._serve, name="flctl-zap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; new connections are refused from here on."""
        self._stop.send(b"")
        self._thread.join()
        self._stop.close(linger=0)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._requests, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        while self._stopped not in dict(poller.poll()):
            request = self._requests.recv_multipart()
            try:
                reply = self._judge(request)
            except Exception as error:
                what = "a connection was refused: its key could not be checked"
                self._gate.bug(logger, STRANGER, error, what)
                reply = [b"500", b"Internal error", b""]
            self._requests.send_multipart([b"1.0", *request[1:2], *reply, b""])
        self._requests.close()
        self._stopped.close()

    def _judge(self, request: list[bytes]) -> list[bytes]:
        """Status, reason and user id for one request."""
        version, _, domain, address, _, mechanism, *credentials = request
        if version != b"1.0" or domain != DOMAIN or mechanism != b"CURVE" or len(credentials) != 1:
            return [b"400", b"Refused", b""]
        key = z85.encode(credentials[0])
        if not self._authorise(key.decode()):
            text, where = "key=%s address=%s refused", address.decode(errors="replace")
            self._gate.info(logger, STRANGER, text, shown(key.decode()), where)
            return [b"400", b"Refused", b""]
        return [b"200", b"OK", key]
