"""The least that a round can cost: the same bytes over plain ZeroMQ, without and with durability.

`floor`: one ROUTER, K DEALER processes; the model goes down as one message, comes back
with a constant added, and is averaged in place. `durable_floor`: the same with CURVE, a
sha256 of each update that the server checks, and one fsync per update file.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import zmq
from measures import Result, peak_rss_mib, wire_bytes

TIMEOUT_MS = 120_000
STOP = b""


def measure(
    k: int, model_bytes: int, folder: Path, *, durable: bool, seconds: float, rounds: int | None
) -> Result:
    """Rounds of K agents, until `seconds` have passed (5 at least), or just `rounds`.

    Update files go into `folder`. Server and agents are processes of their own.
    """
    with ExitStack() as stack:
        arguments: list[object] = ["--agents", k, "--bytes", model_bytes, "--seconds", seconds]
        arguments += ["--folder", folder, "--rounds", rounds or 0]
        server = _start(stack, "server", arguments, durable)
        assert server.stdout is not None
        where = json.loads(server.stdout.readline())
        for _ in range(k):
            _start(stack, "agent", dial(where), durable)
        return Result(**json.loads(server.stdout.readline()))


def dial(where: Mapping[str, str]) -> list[str]:
    """What an agent is started with. A key may begin with a hyphen, as an option does."""
    return [f"--endpoint={where['endpoint']}", f"--key={where['key']}"]


def _start(
    stack: ExitStack, role: str, arguments: Sequence[object], durable: bool
) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, role, *map(str, arguments)]
    if durable:
        command.append("--durable")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def serve(options: argparse.Namespace) -> None:
    socket = _socket(zmq.ROUTER)
    public, secret = zmq.curve_keypair()
    if options.durable:
        socket.curve_server = True
        socket.curve_secretkey = secret
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    _say({"endpoint": f"tcp://127.0.0.1:{port}", "key": public.decode()})

    agents = [socket.recv_multipart()[0] for _ in range(options.agents)]
    model = np.zeros(options.bytes // 4, dtype=np.float32)
    spool = Spool(options.folder) if options.durable else None
    bytes_before = wire_bytes()
    rounds_s: list[float] = []
    while not _enough(rounds_s, options):
        began = time.perf_counter()
        model = one_round(socket, agents, model, spool)
        rounds_s.append(time.perf_counter() - began)
    result = Result(rounds_s, peak_rss_mib(), wire_bytes() - bytes_before)
    for agent in agents:
        socket.send_multipart([agent, STOP])
    _say(asdict(result))


class Spool:
    """Update files, each with one fsync."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def keep(self, update: memoryview) -> None:
        self.written += 1
        path = self.folder / f"update-{self.written % 2}"
        with path.open("wb") as file:
            file.write(update)
            os.fsync(file.fileno())


def one_round(
    socket: "zmq.Socket[bytes]", agents: Sequence[bytes], model: np.ndarray, spool: Spool | None
) -> np.ndarray:
    for agent in agents:
        socket.send_multipart([agent, model.data], copy=False)
    total = np.zeros_like(model)
    for _ in agents:
        _, *frames = socket.recv_multipart(copy=False)
        update = frames[0].buffer
        if spool is not None:
            if hashlib.sha256(update).digest() != frames[1].bytes:
                raise RuntimeError("an update is not what its digest says")
            spool.keep(update)
        total += np.frombuffer(update, dtype=np.float32)
    total /= len(agents)
    return total


def be_agent(options: argparse.Namespace) -> None:
    socket = _socket(zmq.DEALER)
    if options.durable:
        socket.curve_serverkey = options.key.encode()
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(options.endpoint)
    socket.send(b"hello")
    while len(frame := socket.recv(copy=False)):
        update = np.frombuffer(frame.buffer, dtype=np.float32) + np.float32(0.001)
        digest = [hashlib.sha256(update.data).digest()] if options.durable else []
        socket.send_multipart([update.data, *digest], copy=False)


def _socket(kind: int) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.rcvtimeo = socket.sndtimeo = TIMEOUT_MS
    return socket


def _enough(rounds_s: Sequence[float], options: argparse.Namespace) -> bool:
    if options.rounds:
        return len(rounds_s) >= int(options.rounds)
    return len(rounds_s) >= 5 and sum(rounds_s) >= float(options.seconds)


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["server", "agent", "measure"])
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=1_724_320, help="of the model")
    parser.add_argument("--rounds", type=int, default=0, help="0: until --seconds have passed")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=None, help="where update files go")
    parser.add_argument("--endpoint")
    parser.add_argument("--key", help="public key of the server")
    parser.add_argument("--durable", action="store_true")
    return parser.parse_args(arguments)


def main() -> None:
    options = read()
    if options.role == "server":
        serve(options)
    elif options.role == "agent":
        be_agent(options)
    else:
        with TemporaryDirectory(dir=options.folder) as folder:
            result = measure(
                options.agents,
                options.bytes,
                Path(folder),
                durable=options.durable,
                seconds=options.seconds,
                rounds=options.rounds,
            )
        _say({"median_s": statistics.median(result.rounds_s), **asdict(result)})


if __name__ == "__main__":
    main()
