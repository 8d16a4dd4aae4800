"""Rows about names, small files and members.

The server's own disk caches are warm for every contender, the reader has seen nothing yet. The local
disk is compared cold: its caches are dropped before each turn.
"""

import os
import re
import shutil
import signal
import time
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import add

import data
import others
import tinyp2p
from contest import Bar, Row
from machine import MIB, drop_caches
from measure import duration, figure
from processes import Failure, eventually, run, running, timed
from tools import unless_missing


def list_long(space, directory, count):
    """The Work of an `ls -l`; fails unless it shows `count` files."""
    done = space.timed(["ls", "-l", directory], timeout=300)
    shown = len(done.output.splitlines()) - 1
    if shown != count:
        raise Failure(f"{shown} of {count} names in {directory}")
    return done


@contextmanager
def long_listing(space, _notes):
    count = space.size(100_000, 10_000)
    share = data.names(space, count)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, "names")

    def ours():
        list_long(space, share / "names", count)
        with tinyp2p.cold(server, "names") as mount:
            return listed(mount.path)

    def by_sshfs():
        list_long(space, share / "names", count)
        with others.sshfs(space, shell, share, "names") as mountpoint:
            return listed(mountpoint)

    def local():
        drop_caches()
        return listed(share)

    def listed(directory):
        return duration(list_long(space, directory / "names", count), count)

    with others.sshd(space) as shell:
        yield {
            "TinyP2P": ours,
            "sshfs": unless_missing("sshfs", by_sshfs),
            "cold local disk": local,
        }


def copy(space, directory, original, count):
    """One `cp -r` to memory; what came is compared after the clock has stopped."""
    target = space.tmpfs / "copy"
    try:
        work = space.timed(["cp", "-r", directory, target], timeout=300)
        run(["diff", "-r", "-q", original, target], timeout=300)
        return duration(work, count)
    finally:
        shutil.rmtree(target, ignore_errors=True)


@contextmanager
def small_files(space, _notes):
    count = space.size(10_000, 1000)
    share = data.small_files(space, count)
    original = share / "small"
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, "small")

    def ours():
        data.warm(*original.iterdir())
        with tinyp2p.cold(server, "small") as mount:
            return copy(space, mount.path / "small", original, count)

    def by_sshfs():
        data.warm(*original.iterdir())
        with others.sshfs(space, shell, share, "small") as mountpoint:
            return copy(space, mountpoint / "small", original, count)

    with others.sshd(space) as shell:
        yield {"TinyP2P": ours, "sshfs": unless_missing("sshfs", by_sshfs)}


@contextmanager
def small_files_again(space, _notes):
    """The first copy leaves everything in the kernel's cache, if the mount lets it."""
    count = space.size(10_000, 1000)
    share = data.small_files(space, count)
    original = share / "small"
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, "small")
    with tinyp2p.cold(server, "small") as mount:
        copy(space, mount.path / "small", original, count)
        data.warm(*original.iterdir())
        yield {
            "TinyP2P": lambda: copy(space, mount.path / "small", original, count),
            "local disk": lambda: copy(space, original, original, count),
        }


MEMBERS = 50

# Every `ls` is of a directory that its mount has not seen, so that no answer comes from a cache.
LISTINGS = 40


@contextmanager
def frozen_member(space, notes):
    with ExitStack() as stack:
        servers = [member(space, number) for number in range(1, MEMBERS + 1)]
        daemons = [started(stack, server) for server in servers]
        for daemon in daemons:
            daemon.settle(180)
        first_listings = []

        @contextmanager
        def mounted():
            peers = [server.peer for server in servers]
            with tinyp2p.mount(space, peers, "d0", listen="127.205.1.1") as mount:
                everybody = lambda: len(list_names(mount.path / "d0").split()) == MEMBERS
                eventually("all members in the mount", everybody, timeout=120)
                mount.daemon.settle()
                yield mount

        def without():
            with mounted() as mount:
                return mean_listing(space, mount, range(1, LISTINGS + 1))

        def with_one():
            with mounted() as mount, frozen(daemons[-1]):
                first = mean_listing(space, mount, [LISTINGS + 1], least=MEMBERS - 1)
                first_listings.append(first.value)
                return mean_listing(space, mount, range(1, LISTINGS + 1), least=MEMBERS - 1)

        yield {"one frozen": with_one, "none frozen": without}
    if first_listings:
        notes.append(f"the first ls after the freeze took up to {max(first_listings):.2f} s")


def member(space, number):
    share = space.directory(f"share-{number}")
    for directory in range(LISTINGS + 2):
        (share / f"d{directory}").mkdir()
        (share / f"d{directory}" / f"of-{number}").touch()
    first = ("127.205.0.1:15204",) if number > 1 else ()
    return tinyp2p.Server(
        space, share, f"127.205.0.{number}", tinyp2p.PORT, name=f"m{number}", peers=first
    )


def started(stack, server):
    """One after the other: each stretches the password in 64 MiB when it starts."""
    daemon = server.start()
    stack.callback(daemon.stop)
    eventually(f"{server.name} listens", server.is_up, daemons=[daemon])
    return daemon


@contextmanager
def frozen(daemon):
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def list_names(directory):
    return run(["ls", directory])


def mean_listing(space, mount, numbers, least=MEMBERS):
    """Mean seconds of one `ls`, over the directories of those numbers."""
    works = []
    for number in numbers:
        done = space.timed(["ls", mount.path / f"d{number}"], timeout=60, has_tail=False)
        works.append(done)
        if len(done.output.split()) < least:
            raise Failure(f"only {len(done.output.split())} of {MEMBERS} members in d{number}")
    total = reduce(add, works)
    return figure(total.seconds / len(works), total.cpu / len(works) * 1e3, total)


# The files whose names differ in the digit that the pattern leaves open.
MATCHES = 10


@contextmanager
def warm_search(space, notes):
    directories = space.size(10_000, 200)
    share = data.numbered(space, directories, 100)
    stem = f"photo-{directories * 100 // 2 // MATCHES:06}"
    server = tinyp2p.Server(space, share)
    unseen = iter(range(directories))
    slowest_listings, finds = [], []

    def ours():
        return search_call(space, server, f"^{stem}[0-9]\\.jpeg$")

    def find():
        done = timed(["find", share, "-name", f"{stem}[0-9].jpeg"], timeout=300)
        if len(done.output.splitlines()) != MATCHES:
            raise Failure(f"find did not find {MATCHES} files")
        finds.append(done.seconds)
        return done.seconds

    with server.running() as daemon:
        # Its own first walk through the share leaves the names in memory.
        daemon.settle(600)
        with tinyp2p.mount(space, [server.peer], "tree") as mount:

            def listing():
                everything = search_command(space, server, "")
                with running(everything, space.path("search.log")):
                    # It joins first.
                    time.sleep(2)
                    albums = [f"album-{next(unseen):04}" for _ in range(LISTINGS)]
                    listings = [["ls", mount.path / "tree" / album] for album in albums]
                    slowest = max(timed(command, timeout=60).seconds for command in listings)
                slowest_listings.append(slowest)
                return slowest

            yield {"TinyP2P": ours, "find in the share": find, "ls during a search": listing}
        notes.append(f"the node that shares the names takes {daemon.memory('VmRSS') / MIB:.0f} MiB")
    if finds and slowest_listings:
        notes.append(
            f"find in the share took {min(finds):.3f} to {max(finds):.3f} s; of {LISTINGS} ls in a "
            f"mount, each of another directory, during a search for everything, the slowest took "
            f"{max(slowest_listings):.3f} s"
        )


def search_command(space, server, pattern):
    log = ("--log", "tinyp2p_net::node=debug")
    return tinyp2p.command(space, "search", pattern, server.peer, options=log)


def search_call(space, server, pattern):
    """Seconds of one search, as the command's log tells them.

    The command joins the network first, which has nothing to do with the search.
    """
    done = timed(search_command(space, server, pattern), timeout=120)
    if len(done.output.splitlines()) != MATCHES:
        raise Failure(f"{len(done.output.splitlines())} matches, not {MATCHES}")
    # A mount that runs beside the server is asked, too, and has nothing to look through.
    told = re.findall(r"matches=(\d+) microseconds=(\d+)", done.errors)
    taken = [int(microseconds) for matches, microseconds in told if int(matches) == MATCHES]
    if not taken:
        raise Failure("the log does not tell how long the search took")
    return taken[0] / 1e6


ROWS = [
    Row(
        key="ls",
        work="ls -l of 100,000 files, cold",
        ours="TinyP2P",
        unit="s",
        is_more_better=False,
        bars=(Bar("sshfs", at_least=5), Bar("cold local disk", aim=1)),
        contest=long_listing,
        cpu_unit="CPU us/file",
        about="through a new mount; sshfs; the local disk after its caches were dropped",
    ),
    Row(
        key="cp",
        work="cp -r of 10,000 files of 4 KiB, cold",
        ours="TinyP2P",
        unit="s",
        is_more_better=False,
        bars=(Bar("sshfs", at_least=6),),
        contest=small_files,
        cpu_unit="CPU us/file",
        about="through a new mount, to memory; sshfs",
    ),
    Row(
        key="cp-again",
        work="cp -r of 10,000 files of 4 KiB, again",
        ours="TinyP2P",
        unit="s",
        is_more_better=False,
        # Within one and a half times its time.
        bars=(Bar("local disk", at_least=0.67),),
        contest=small_files_again,
        cpu_unit="CPU us/file",
        about="the same of files that this mount has copied before; the local disk, warm",
    ),
    Row(
        key="frozen",
        work="ls with 50 members, one frozen, after its first deadline",
        ours="one frozen",
        unit="s",
        is_more_better=False,
        # Equal, but for what two equal runs differ by.
        bars=(Bar("none frozen", at_least=0.9),),
        contest=frozen_member,
        cpu_unit="CPU ms",
        about="mean of 40 directories that the mount has not seen; the same with all members answering",
    ),
    Row(
        key="search",
        work="search over 1,000,000 names, warm",
        ours="TinyP2P",
        unit="s",
        is_more_better=False,
        bars=(Bar(at_most=1),),
        contest=warm_search,
        about="by the command's own log, without its start; find in the directory itself is shown beside it",
    ),
]
