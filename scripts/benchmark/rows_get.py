"""Rows about `tinyp2p get`: what becomes of several holders, and how it compares with rsync over ssh,
rclone copy and curl.

Each turn is one command from its start to its end, which for `get` includes joining the network.
Everything is written to memory (tmpfs), so that no disk is measured, and compared with the original
after the clock has stopped. The server's page cache is warm.
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
from measure import duration, rate
from processes import Failure, run
from tools import unless_missing

HOLDERS = 3


def get(space, peers, pattern, original, inside=(), count=1):
    """One `tinyp2p get`, by a node that has never been there, of `count` files; gives its Work."""

    def check(output):
        if not output.startswith(f"{count} fetched"):
            raise Failure(f"not {count} files: {output.strip()}")

    with target(space) as into:
        options = ("--log", "warn", "-d", into)
        command = tinyp2p.command(space, "get", pattern, *peers, options=options)
        return fetch(space, [*inside, *command], original, into, check)


def rsync(space, shell, original):
    ssh = f"ssh -F {shell.configuration}"
    with target(space) as into:
        command = ["rsync", "-a", "-e", ssh, f"127.0.0.1:{original}/", f"{into}/"]
        return fetch(space, command, original, into)


def rclone(space, web, original):
    home = space.directory("rclone")
    with target(space) as into:
        command = ["rclone", "copy", ":http:", into, *web.rclone(home)]
        return fetch(space, command, original, into)


def curl(space, web, original):
    """One curl, with a list of everything, by as few connections as it likes."""
    wanted = space.path("curl-list")
    with target(space) as into:
        names = [path.relative_to(original) for path in original.rglob("*") if path.is_file()]
        lines = [f'url = "{web.url}/{name}"\noutput = "{into / name}"\n' for name in names]
        wanted.write_text("".join(lines))
        command = [*web.curl_alone, "--create-dirs", "-K", wanted]
        return fetch(space, command, original, into)


@contextmanager
def target(space):
    into = space.tmpfs / "got"
    try:
        yield into
    finally:
        shutil.rmtree(into, ignore_errors=True)


def fetch(space, command, original, into, check=lambda output: None):
    """The Work of a command that must leave a copy of a directory."""
    work = space.timed(command, timeout=300)
    check(work.output)
    run(["diff", "-r", "-q", original, into], timeout=300)
    return work


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
            return rate(get(space, peers, "^file$", share, inside), size)

    yield {"three holders": lambda: from_holders(3), "one of them": lambda: from_holders(1)}


@contextmanager
def one_file(space, _notes):
    size = space.size(GIB, 96 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def ours():
        with server.running():
            return get(space, [server.peer], "^file$", share)

    with against_others(space, share, [share / FILE], ours, lambda work: rate(work, size)) as each:
        yield each


@contextmanager
def small_files(space, _notes):
    count = space.size(10_000, 1000)
    share = data.small_files(space, count)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, "small")
    files = list((share / "small").iterdir())

    def ours():
        with server.running():
            return get(space, [server.peer], ".", share, count=count)

    with against_others(space, share, files, ours, lambda work: duration(work, count)) as each:
        yield each


@contextmanager
def against_others(space, share, files, ours, judged):
    """All contenders for one directory; `judged` makes a Figure of a Work."""

    def turn(fetched):
        data.warm(*files)
        return judged(fetched())

    with others.sshd(space) as shell, others.nginx(space, share) as web:
        fetches = {
            "rsync": lambda: rsync(space, shell, share),
            "rclone": lambda: rclone(space, web, share),
            "curl": lambda: curl(space, web, share),
        }
        theirs = {
            NAMES[kind]: unless_missing(kind, lambda fetched=fetched: turn(fetched))
            for kind, fetched in fetches.items()
        }
        yield {"tinyp2p get": lambda: turn(ours), **theirs}


NAMES = {"rsync": "rsync over ssh", "rclone": "rclone copy", "curl": "curl"}

ROWS = [
    Row(
        key="get",
        work="get of 1 GiB, three holders, 400 Mbit/s each",
        ours="three holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=2),),
        contest=capped,
        cpu_unit="CPU s/GiB",
        needs=("ip", "tc", "nsenter"),
        about="each holder behind a link of its own; one of them alone",
    ),
    Row(
        key="get-free",
        work="get of 1 GiB, three holders on this machine",
        ours="three holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=0.8),),
        contest=uncapped,
        cpu_unit="CPU s/GiB",
        about="all on loopback; one of them alone",
    ),
    Row(
        key="get-rsync",
        work="get of 1 GiB",
        ours="tinyp2p get",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("rsync over ssh", at_least=2), Bar("rclone copy"), Bar("curl")),
        contest=one_file,
        cpu_unit="CPU s/GiB",
        about="to memory; rsync over ssh, rclone copy, curl",
    ),
    Row(
        key="get-small",
        work="get of 10,000 files of 4 KiB",
        ours="tinyp2p get",
        unit="s",
        is_more_better=False,
        bars=(Bar("rsync over ssh", at_least=1.2), Bar("rclone copy"), Bar("curl")),
        contest=small_files,
        cpu_unit="CPU us/file",
        about="to memory; rsync over ssh, rclone copy, curl with a list of them",
    ),
]
