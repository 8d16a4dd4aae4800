"""The programs under test.

A mount is always new: its own identity, nothing remembered, nothing cached. A server's process is new
for each cold run too, but keeps its state directory, and with it the content roots that it has
computed: without a root nothing could be verified, and a server that hashes while it sends
would be measured doing two things.
"""

import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from processes import Daemon, Failure, eventually, is_listening, mounted, run, running, succeeds

PORT = 15204


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def environment(home):
    """Keeps a node away from everything of the user's."""
    return {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_RUNTIME_DIR": str(home),
    }


@dataclass
class Server:
    """A member that shares a directory; `running()` starts its process, as often as is needed."""

    space: object
    share: Path
    address: str = "127.0.0.1"
    port: int = 0
    name: str = "server"
    inside: tuple = ()
    options: tuple = ()
    peers: tuple = ()
    home: Path = field(init=False)

    def __post_init__(self):
        self.port = self.port or free_port(self.address)
        self.home = self.space.directory(self.name)

    @property
    def peer(self):
        return f"{self.address}:{self.port}"

    def start(self):
        """Starts the process; it may not listen yet. The caller stops it."""
        return Daemon(self.command(), self.home / "log", environment(self.home))

    def command(self):
        return [
            *self.inside,
            self.space.programs / "tinyp2p",
            "serve",
            *("--share", self.share),
            *("--name", self.name),
            *("--listen", self.peer),
            *("--state-dir", self.home / "state"),
            *("--no-discovery", "--log", "warn"),
            *self.options,
            self.space.password,
            *self.peers,
        ]

    def is_up(self):
        return is_listening(self.peer, self.inside)

    @contextmanager
    def running(self):
        with running(self.command(), self.home / "log", environment(self.home)) as daemon:
            eventually(f"{self.name} listens", self.is_up, daemons=[daemon])
            daemon.settle()
            yield daemon


@dataclass
class Mount:
    """A mount that is there."""

    path: Path
    daemon: Daemon

    @property
    def home(self):
        return self.path.parent

    def attribute(self, name, path):
        """The value of `user.tinyp2p.NAME`, None while there is none."""
        command = ["getfattr", "--only-values", "-n", f"user.tinyp2p.{name}", self.path / path]
        try:
            return run(command)
        except Failure:
            return None

    def wait_for_root(self, path, timeout=600):
        """Waits until the content root of a file, or of all files in a directory, is known.

        From then on what is read is verified.
        """
        ask = ["getfattr", "-n", "user.tinyp2p.root", "{}", "+"]
        command = ["find", self.path / path, "-type", "f", "-exec", *ask]
        known = lambda: succeeds(command, timeout=120)
        eventually(f"the content of {path} verifiable", known, timeout)

    def wait_for_sources(self, path, count):
        known = lambda: len((self.attribute("sources", path) or "").splitlines()) == count
        eventually(f"{count} sources of {path}", known)


@contextmanager
def mount(space, peers, ready, listen="127.0.0.1", inside=(), options=(), is_settled=True):
    """A new mount of the network of `peers`, for the length of a `with` block."""
    home = space.directory("mount")
    mountpoint = home / "mnt"
    command = [
        *inside,
        space.programs / "tinyp2p-mount",
        *("-f", "--no-share", "--no-discovery", "--log", "warn"),
        *("--listen", f"{listen}:{PORT if inside else free_port(listen)}"),
        *("--state-dir", home / "state"),
        *options,
        space.password,
        mountpoint,
        *peers,
    ]
    log = home / "log"
    with mounted(command, mountpoint, ready, log, environment(home), timeout=60) as daemon:
        if is_settled:
            daemon.settle()
        yield Mount(mountpoint, daemon)


def status(space, home):
    """What the node that runs in a home says of itself; nothing while it does not answer."""
    try:
        return json.loads(run([*at_home(home), space.programs / "tinyp2p", "status", "--json"]))
    except Failure:
        return {}


def at_home(home):
    """The prefix that runs a command as if a home were the user's."""
    return ("env", *(f"{variable}={value}" for variable, value in environment(home).items()))


def command(space, name, *arguments, options=()):
    """A command of `tinyp2p` by a node that has never been there; `arguments` end with a peer."""
    home = space.directory(name)
    return [
        *at_home(home),
        *(space.programs / "tinyp2p", name, "--no-discovery", "--state-dir", home / "state"),
        *options,
        space.password,
        *arguments,
    ]


@contextmanager
def cold(server, ready, options=()):
    """A new process of `server` and a new mount of it."""
    with (
        server.running(),
        mount(server.space, [server.peer], ready, options=options) as mounted_here,
    ):
        yield mounted_here


def learn_root(server, path, **where):
    """Lets a server compute roots once, of a file or a directory; its later processes remember."""
    with server.running(), mount(server.space, [server.peer], path, **where) as mounted_here:
        mounted_here.wait_for_root(path)
