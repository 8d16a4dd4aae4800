"""Rows about `tinyp2p get`: what becomes of several holders, and how it compares with rsync over ssh.

Each turn is one command from its start to its end, which for `get` includes joining the network: more
than a second, in which it waits for others. Everything is written to memory (tmpfs), so that no disk is
measured, and compared with the original after the clock has stopped. The server's page cache is warm.
"""

import shutil
from contextlib import ExitStack, contextmanager

import data
import hosts
import others
import tinyp2p
from contest import Bar, Row
from data import FILE
from machine import GIB, MIB
from processes import Failure, run, timed

HOLDERS = 3


def get(space, peers, pattern, original, inside=(), count=1):
    """Seconds of one `tinyp2p get`, by a node that has never been there, of `count` files."""
    home, target = space.directory("getter"), space.tmpfs / "got"
    command = [
        *inside,
        "env",
        *(f"{name}={value}" for name, value in tinyp2p.environment(home).items()),
        *(space.programs / "tinyp2p", "get", "--no-discovery"),
        *("--log", "warn", "--state-dir", home / "state"),
        *("-d", target, space.password, pattern),
        *peers,
    ]
    try:
        done = timed(command, timeout=300)
        if not done.output.startswith(f"{count} fetched"):
            raise Failure(f"not {count} files: {done.output.strip()}")
        run(["diff", "-r", "-q", original, target], timeout=300)
        return done.seconds
    finally:
        shutil.rmtree(target, ignore_errors=True)


def rsync(space, shell, original):
    """Seconds of one rsync of a directory over ssh."""
    target = space.tmpfs / "copy"
    ssh = f"ssh -F {shell.home / 'ssh_config'}"
    command = ["rsync", "-a", "-e", ssh, f"127.0.0.1:{original}/", f"{target}/"]
    try:
        seconds = timed(command, timeout=300).seconds
        run(["diff", "-r", "-q", original, target], timeout=300)
        return seconds
    finally:
        shutil.rmtree(target, ignore_errors=True)


@contextmanager
def capped(space, notes):
    """Holders that each have a network of their own, which sends at 400 Mbit/s at most."""
    size = space.size(GIB, 96 * MIB)
    share = data.random_file(space, size)
    with hosts.network(HOLDERS, "400mbit") as (reader, machines):
        where = {"listen": reader.address, "inside": reader.inside}
        servers = [
            tinyp2p.Server(
                space, share, host.address, tinyp2p.PORT, name=f"holder-{n}", inside=host.inside
            )
            for n, host in enumerate(machines)
        ]
        with contenders(space, share, size, servers, where) as each:
            yield each
    notes.append(f"a file of {size // MIB} MiB; each holder behind tc tbf in a network of its own")


@contextmanager
def uncapped(space, notes):
    """The same on loopback, where this machine's processors are what there is too little of."""
    size = space.size(GIB, 96 * MIB)
    share = data.random_file(space, size)
    addresses = [f"127.205.2.{number}" for number in range(1, HOLDERS + 1)]
    servers = [
        tinyp2p.Server(space, share, address, tinyp2p.PORT, name=f"holder-{n}")
        for n, address in enumerate(addresses)
    ]
    with contenders(space, share, size, servers, {}) as each:
        yield each
    notes.append("all holders share the processors of this machine with whoever fetches")


@contextmanager
def contenders(space, share, size, servers, where):
    for server in servers:
        tinyp2p.learn_root(server, FILE, **where)

    def from_holders(count):
        data.warm(share / FILE)
        with ExitStack() as stack:
            for server in servers[:count]:
                stack.enter_context(server.running())
            peers = [server.peer for server in servers[:count]]
            inside = where.get("inside", ())
            return size / 1e6 / get(space, peers, "^file$", share, inside)

    yield {"three holders": lambda: from_holders(3), "one of them": lambda: from_holders(1)}


@contextmanager
def one_file(space, _notes):
    size = space.size(GIB, 96 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def ours():
        data.warm(share / FILE)
        with server.running():
            return size / 1e6 / get(space, [server.peer], "^file$", share)

    def by_rsync():
        data.warm(share / FILE)
        return size / 1e6 / rsync(space, shell, share)

    with others.sshd(space) as shell:
        yield {"tinyp2p get": ours, "rsync over ssh": by_rsync}


@contextmanager
def small_files(space, notes):
    count = space.size(10_000, 1000)
    share = data.small_files(space, count)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, "small")

    def warm():
        data.warm(*(share / "small").iterdir())

    def ours():
        warm()
        with server.running():
            return get(space, [server.peer], ".", share, count=count)

    def by_rsync():
        warm()
        return rsync(space, shell, share)

    with others.sshd(space) as shell:
        yield {"tinyp2p get": ours, "rsync over ssh": by_rsync}
    notes.append("get waits for others for a second before it asks them")


ROWS = [
    Row(
        key="get",
        work="get of 1 GiB, three holders, 400 Mbit/s each",
        ours="three holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=2),),
        contest=capped,
    ),
    Row(
        key="get-free",
        work="get of 1 GiB, three holders on this machine",
        ours="three holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=0.8),),
        contest=uncapped,
    ),
    Row(
        key="get-rsync",
        work="get of 1 GiB",
        ours="tinyp2p get",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("rsync over ssh", at_least=0.5, aim=1),),
        contest=one_file,
    ),
    Row(
        key="get-small",
        work="get of 10,000 files of 4 KiB",
        ours="tinyp2p get",
        unit="s",
        is_more_better=False,
        bars=(Bar("rsync over ssh", at_least=0.3, aim=1),),
        contest=small_files,
    ),
]
