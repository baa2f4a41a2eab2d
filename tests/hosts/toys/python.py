"""The interpreter of a toy host: what comes on standard input is run by ./modules.py."""

import json
import os
import socket
import sys

if len(sys.argv) > 1:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect(os.environ["TOY_MODULES"])
    socket.send_fds(server, [json.dumps(dict(os.environ)).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 1))
