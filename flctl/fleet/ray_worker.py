"""One worker on a Ray cluster."""

import contextlib
from typing import Any

import msgspec

from flctl.fleet.processes import Order
from flctl.wire.messages import Digest


def _remote() -> type:
    """What ray pickles: no more than this class, which imports the flctl of its node."""

    class Worker:
        def __init__(self, *given: Any) -> None:
            self.given = given
            self.site: Any = None

        def facts(self) -> Any:
            try:
                from flctl.fleet.site import ClusterSite
            except ImportError as error:
                import socket

                raise ImportError(f"node {socket.gethostname()}: {error}") from error
            self.site = self.site or ClusterSite(*self.given)
            return self.site.facts()

        def do(self, *given: Any) -> Any:
            return self.site.do(*given)

    return Worker


class RayWorker:
    """One worker; `answer` is what it was asked last, `order` and `number` what it is doing."""

    def __init__(self, given: tuple[bytes, Any], cpus: int) -> None:
        import ray

        self.handle: Any = (
            ray.remote(_remote()).options(num_cpus=cpus, max_restarts=0).remote(*given)
        )
        self.answer: Any = None
        self.order: Order | None = None
        self.number: int | None = None
        self.ready = False
        self.node = ""
        """Once it has been ready."""
        self.ask()

    @property
    def idle(self) -> bool:
        return self.ready and self.answer is None

    def end(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # the cluster may be gone
            ray.kill(self.handle)

    def ask(self) -> None:
        """For its facts; it gets no order before they are known."""
        self.ready, self.answer = False, self.handle.facts.remote()

    def do(
        self, number: int, order: Order, model: tuple[Digest, list[Any]], residual: bytes | None
    ) -> None:
        self.number, self.order = number, order
        self.answer = self.handle.do.remote(msgspec.msgpack.encode(order), model, residual)
