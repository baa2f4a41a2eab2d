"""Where the processes under test can be made to die, and what they have made durable.

Everything that changes a file, makes one durable or sends a message is a *point*. A point is
known by what is done, to which file, and the functions of flctl that do it. The settings
(JSON in FLCTL_FAULTS) say what happens at points:

    {"count": FILE}               append the name of each point that is passed
    {"die": NAME, "nth": 1}       SIGKILL to this process before the n-th time
    {"die": NAME, "torn": true}   the same, with half of the bytes of a write done
    {"fail": NAME, "errno": N}    an OSError instead, as from a disk that is full
    {"disk": DIR}                 to read or list what is below DIR is a point, too
    {"dead": FILE}                while it is there: EIO from everything below the disk's DIR
    {"clock": FILE}               the wall clock is wrong by the seconds in FILE
    {"once": FILE}                only if this file is not there; it is made
    {"record": FILE, "root": DIR} append each change of what is below DIR: see `power`
    {"role": "worker"}            for such processes only: coordinator, agent or worker

flctl itself knows nothing of this: os, io, socket and zmq are wrapped, and so is time
(`wrong_clock`).
"""

import base64
import errno
import functools
import io
import json
import os
import re
import signal
import socket
import sys
import threading
from collections import Counter

import wrong_clock

_real = {
    name: getattr(os, name)
    for name in (
        "open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "truncate", "rename",
        "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "scandir", "listdir",
        "pread", "preadv",
    )
}  # fmt: skip
_lock = threading.RLock()
_inside = threading.local()


def role():
    words = sys.orig_argv[1:]
    if "flctl.worker.main" in words:
        return "worker"
    return next((word for word in words if word in ("coordinator", "agent")), "other")


class Points:
    def __init__(self, settings):
        self.die, self.nth = settings.get("die"), settings.get("nth", 1)
        self.fail, self.errno = settings.get("fail"), settings.get("errno")
        self.torn, self.once = settings.get("torn", False), settings.get("once")
        self.passed = Counter()
        self.out = self.log = -1
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if "count" in settings:
            self.out = _real["open"](settings["count"], append, 0o600)
        if "record" in settings:
            self.log = _real["open"](settings["record"], append, 0o600)
        self.root = os.path.realpath(settings["root"]) if "root" in settings else None
        self.disk = os.path.realpath(settings["disk"]) if "disk" in settings else None
        self.dead = settings.get("dead")

    def reach(self, what, where, depth=5):
        """Whether half of the write is to be done before the end."""
        if self.dead is not None and self.on_disk(where) and os.path.exists(self.dead):
            raise OSError(errno.EIO, os.strerror(errno.EIO), where)
        name = f"{what} {plain(where)} {stack(depth)}"
        with _lock:
            self.passed[name] += 1
            if self.out >= 0:
                _real["write"](self.out, f"{name}\n".encode())
            if name == self.die and self.passed[name] == self.nth and self._first():
                if not self.torn:
                    die()
                return True
            if name == self.fail and self.passed[name] == self.nth and self._first():
                raise OSError(self.errno, os.strerror(self.errno), str(where))
        return False

    def read(self, what, where):
        if self.on_disk(where):
            self.reach(what, where, depth=3)

    def on_disk(self, where):
        return self.disk is not None and f"{where}/".startswith(f"{self.disk}/")

    def _first(self):
        if self.once is None:
            return True
        try:
            os.close(_real["open"](self.once, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True

    def below(self, path):
        return self.root is not None and (path == self.root or path.startswith(self.root + "/"))

    def record(self, *entry, data=None):
        line = [*entry, base64.b64encode(data).decode()] if data is not None else list(entry)
        _real["write"](self.log, json.dumps(line).encode() + b"\n")


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    while True:
        signal.pause()


def plain(path):
    """The end of a path without what differs from run to run."""
    text = "/".join(str(path).split("/")[-2:])
    text = re.sub(r"\.[^./]*\.[a-z0-9_]{8}(?=(\.tmp)?$)", ".TEMPORARY", text)
    text = re.sub(r"\.[a-z0-9_-]{8}(\.tmp|$)", ".TEMPORARY", text)
    text = re.sub(r"[a-z]+-\d{4}-\d{6}-[0-9a-f]{4}", "RUN", text)
    text = re.sub(r"-[a-z0-9_]{8}/", "-TEMPORARY/", text)
    return re.sub(r"\d+", "N", text)


def stack(depth):
    """The innermost functions of flctl that led here."""
    names = []
    frame = sys._getframe(2)
    while frame is not None and len(names) < depth:
        # Not by the file: a checkout's folder may have the package's name, too.
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        if package == "flctl" and module:
            names.append(f"{module.replace('.', '/')}.{frame.f_code.co_name}")
        frame = frame.f_back
    return "<".join(names)


def at_fd(fd):
    """Path of an open file, pipe or socket."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "?"


def full(path, dir_fd=None):
    path = os.fsdecode(path)
    folder = at_fd(dir_fd) if dir_fd is not None else os.getcwd()
    folder, name = os.path.split(os.path.join(folder, path))
    return os.path.join(os.path.realpath(folder), name)


def install(text):
    settings = json.loads(text)
    if settings.get("role", role()) != role():
        return
    if "clock" in settings:
        wrong_clock.install(settings["clock"])
    if settings.keys() <= {"clock", "role"}:
        return
    points = Points(settings)
    _wrap_files(points)
    _wrap_names(points)
    _wrap_sockets(points)
    _wrap_zmq(points)


def _wrapped(name, function):
    @functools.wraps(_real[name])
    def call(*args, **kwargs):
        if getattr(_inside, "on", False):
            return _real[name](*args, **kwargs)
        _inside.on = True
        try:
            return function(*args, **kwargs)
        finally:
            _inside.on = False

    for known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if _real[name] in known:
            known.add(call)
    setattr(os, name, call)


def _wrap_files(points):
    def opened(path, flags, mode=0o777, *, dir_fd=None):
        where = full(path, dir_fd)
        if not flags & os.O_CREAT:
            points.read("look", where)
            return _real["open"](path, flags, mode, dir_fd=dir_fd)
        points.reach("open", where)
        with _lock:
            new = not os.path.lexists(where)
            fd = _real["open"](path, flags, mode, dir_fd=dir_fd)
            if points.below(where):
                if new:
                    points.record("create", where, os.fstat(fd).st_ino)
                elif flags & os.O_TRUNC:
                    points.record("size", os.fstat(fd).st_ino, 0)
        return fd

    def put(fd, data, offset=None):
        where = at_fd(fd)
        torn = points.reach("write", where)
        data = bytes(data)
        if torn:
            data = data[: len(data) // 2]
        with _lock:
            if points.below(where):
                at = _place(fd) if offset is None else offset
                points.record("write", os.fstat(fd).st_ino, at, data=data)
            at_place = (fd, data) if offset is None else (fd, data, offset)
            done = _real["write" if offset is None else "pwrite"](*at_place)
        if torn:
            die()
        return done

    def listed(how):
        def entries(path="."):
            points.read("list", at_fd(path) if isinstance(path, int) else full(path))
            return _real[how](path)

        return entries

    def got(how):
        def read(fd, *args):
            points.read("read", at_fd(fd))
            return _real[how](fd, *args)

        return read

    def synced(how):
        def sync(fd):
            number = fd if isinstance(fd, int) else fd.fileno()
            where = at_fd(number)
            points.reach(how, where)
            with _lock:
                mark = points.below(where)
                done = _real[how](fd)
                if mark:
                    points.record("sync", os.fstat(number).st_ino)
            return done

        return sync

    def cut(how):
        def truncate(fd, length):
            where = at_fd(fd) if isinstance(fd, int) else full(fd)
            points.reach("truncate", where)
            with _lock:
                done = _real[how](fd, length)
                if points.below(where):
                    points.record("size", os.stat(fd).st_ino, length)
            return done

        return truncate

    _wrapped("open", opened)
    _wrapped("write", put)
    _wrapped("pwrite", put)
    for name in ("scandir", "listdir"):
        _wrapped(name, listed(name))
    for name in ("pread", "preadv"):
        _wrapped(name, got(name))
    for name in ("fsync", "fdatasync"):
        _wrapped(name, synced(name))
    for name in ("ftruncate", "truncate"):
        _wrapped(name, cut(name))
    _wrap_open(points)


def _place(fd):
    import fcntl

    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
        return os.fstat(fd).st_size
    return os.lseek(fd, 0, os.SEEK_CUR)


def _wrap_open(points):
    """Files that Python writes to by itself: through os.open and os.write, as above."""
    plain_open = io.open

    class Raw(io.FileIO):
        def write(self, data):
            return os.write(self.fileno(), memoryview(data).cast("B"))

        def truncate(self, size=None):
            size = self.tell() if size is None else size
            os.ftruncate(self.fileno(), size)
            return size

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
               closefd=True, opener=None):  # fmt: skip
        if not set(mode) & set("wax+"):
            if not isinstance(file, int) and not getattr(_inside, "on", False):
                points.read("look", full(file))
            return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(
            file, mode.replace("b", "").replace("t", ""), closefd,
            opener or (lambda path, flags: os.open(path, flags, 0o666)),
        )  # fmt: skip
        if "b" in mode and buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering <= 1 else buffering
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text

    import builtins

    io.open = builtins.open = opened


def _wrap_names(points):
    def moved(how):
        def move(src, dst, *, src_dir_fd=None, dst_dir_fd=None):
            old, new = full(src, src_dir_fd), full(dst, dst_dir_fd)
            points.reach("rename", new)
            with _lock:
                done = _real[how](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                if points.below(new):
                    points.record("rename", old, new)
            return done

        return move

    def linked(src, dst, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
        old, new = full(src, src_dir_fd), full(dst, dst_dir_fd)
        points.reach("link", new)
        with _lock:
            done = _real["link"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd,
                                 follow_symlinks=follow_symlinks)  # fmt: skip
            if points.below(new):
                points.record("link", old, new)
        return done

    def removed(how):
        def remove(path, *, dir_fd=None):
            where = full(path, dir_fd)
            points.reach(how, where)
            with _lock:
                done = _real[how](path, dir_fd=dir_fd)
                if points.below(where):
                    points.record("remove", where)
            return done

        return remove

    def made(path, mode=0o777, *, dir_fd=None):
        where = full(path, dir_fd)
        points.reach("mkdir", where)
        with _lock:
            done = _real["mkdir"](path, mode, dir_fd=dir_fd)
            if points.below(where):
                points.record("mkdir", where, os.stat(where).st_ino)
        return done

    for name in ("rename", "replace"):
        _wrapped(name, moved(name))
    _wrapped("link", linked)
    for name in ("unlink", "remove", "rmdir"):
        _wrapped(name, removed(name))
    _wrapped("mkdir", made)


def _wrap_sockets(points):
    """The pipe between a supervisor and its worker."""

    def sent(name):
        plain_send = getattr(socket.socket, name)

        def send(self, *args):
            if self.family == socket.AF_UNIX and not getattr(_inside, "on", False):
                _inside.on = True
                try:
                    points.reach("send", "pipe")
                finally:
                    _inside.on = False
            return plain_send(self, *args)

        setattr(socket.socket, name, send)

    for name in ("sendall", "sendmsg"):
        sent(name)


class _Zmq:
    """Finds zmq as everybody else, and wraps its sockets once they are there."""

    def __init__(self, points):
        self._points = points

    def find_spec(self, name, path=None, target=None):
        if name != "zmq.sugar.socket":
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            plain_send = module.Socket.send_multipart

            def send_multipart(socket, *args, **kwargs):
                self._points.reach("send", "zmq")
                return plain_send(socket, *args, **kwargs)

            module.Socket.send_multipart = send_multipart

        spec.loader.exec_module = exec_module
        return spec


def _wrap_zmq(points):
    sys.meta_path.insert(0, _Zmq(points))
