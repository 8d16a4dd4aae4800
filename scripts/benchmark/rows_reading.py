"""Rows about the bytes of large files.

The server's page cache is warm for every contender; the reader's is cold, because each turn has a mount
of its own, unless the row is about reading again. What was read is compared with the original, after
the clock has stopped.
"""

import json
import random
import statistics
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import data
import hosts
import others
import tinyp2p
from contest import Bar, Row
from data import FILE
from machine import GIB, MIB
from processes import Failure, eventually, is_listening, last_line, run, running, timed

HERE = Path(__file__).parent


def read(path, size, timeout=300):
    """Reads a file from its beginning to its end, as `cp` would, and gives the rate in MB/s."""
    done = timed(["dd", f"if={path}", "of=/dev/null", "bs=1M"], timeout)
    if f"\n{size} bytes" not in "\n" + done.errors:
        raise Failure(f"not {size} bytes in {path}: {last_line(done.errors)}")
    return size / 1e6 / done.seconds


def check(path, original):
    """Fails unless a file is the same as the original."""
    run(["cmp", path, original], timeout=300)


@contextmanager
def sequential(space, _notes):
    size = space.size(GIB, 256 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def ours():
        data.warm(share / FILE)
        with tinyp2p.cold(server, FILE) as mount:
            mount.wait_for_root(FILE)
            return read_and_check(mount.path)

    def by_curl():
        data.warm(share / FILE)
        return size / 1e6 / timed(web.curl(FILE), 300).seconds

    def by_rclone():
        data.warm(share / FILE)
        with others.rclone(space, web, FILE) as mountpoint:
            return read_and_check(mountpoint)

    def by_sshfs():
        data.warm(share / FILE)
        with others.sshfs(space, shell, share, FILE) as mountpoint:
            return read_and_check(mountpoint)

    def read_and_check(mountpoint):
        rate = read(mountpoint / FILE, size)
        check(mountpoint / FILE, share / FILE)
        return rate

    with others.nginx(space, share) as web, others.sshd(space) as shell:
        yield {"TinyP2P": ours, "curl": by_curl, "rclone": by_rclone, "sshfs": by_sshfs}


@contextmanager
def scattered(space, _notes):
    size = space.size(GIB, 256 * MIB)
    count = space.size(4000, 1000)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def ours():
        data.warm(share / FILE)
        with tinyp2p.cold(server, FILE) as mount:
            mount.wait_for_root(FILE)
            return rate(mount.path)

    def by_sshfs():
        data.warm(share / FILE)
        with others.sshfs(space, shell, share, FILE) as mountpoint:
            return rate(mountpoint)

    def rate(mountpoint):
        """Each read is in a stretch of 128 KiB of its own, so none finds what another has brought along."""
        reader = [
            *("fio", "--name=random", f"--filename={mountpoint / FILE}", "--readonly"),
            *("--rw=randread", "--bs=4k", "--blockalign=128k", f"--number_ios={count}"),
            *("--ioengine=psync", "--fadvise_hint=random"),
            *(f"--randseed={random.randrange(1 << 31)}", "--output-format=json"),
        ]
        done = json.loads(run(reader, timeout=300))["jobs"][0]
        if done["error"] or done["read"]["total_ios"] != count:
            raise Failure(f"{done['read']['total_ios']} of {count} reads, error {done['error']}")
        return done["read"]["iops"]

    with others.sshd(space) as shell:
        yield {"TinyP2P": ours, "sshfs": by_sshfs}


@contextmanager
def again(space, _notes):
    size = space.size(GIB, 256 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    with tinyp2p.cold(server, FILE) as mount:
        mount.wait_for_root(FILE)
        check(mount.path / FILE, share / FILE)
        yield {
            "TinyP2P": lambda: read(mount.path / FILE, size),
            "local disk": lambda: read(share / FILE, size),
        }


@contextmanager
def many_holders(space, notes):
    size = space.size(256 * MIB, 48 * MIB)
    share = data.random_file(space, size)
    with hosts.network(4, "100mbit") as (reader, holders):
        servers = [holder(space, share, host) for host in holders]
        where = {"listen": reader.address, "inside": reader.inside}
        for server in servers:
            tinyp2p.learn_root(server, FILE, **where)

        def from_holders(count):
            chosen = servers[:count]
            data.warm(share / FILE)
            with ExitStack() as stack:
                for server in chosen:
                    stack.enter_context(server.running())
                peers = [server.peer for server in chosen]
                mount = stack.enter_context(tinyp2p.mount(space, peers, FILE, **where))
                mount.wait_for_sources(FILE, count)
                mount.wait_for_root(FILE)
                rate = read(mount.path / FILE, size)
                check(mount.path / FILE, share / FILE)
                return rate

        yield {"four holders": lambda: from_holders(4), "one of them": lambda: from_holders(1)}
    notes.append(f"a file of {size // MIB} MiB; each holder behind tc tbf in a network of its own")


def holder(space, share, host):
    name = "holder-" + host.address.rpartition(".")[2]
    return tinyp2p.Server(space, share, host.address, tinyp2p.PORT, name=name, inside=host.inside)


DELAY = 0.025


class Link:
    """A slow link to some port, and after it was taken down what it has carried to its callers."""

    def __init__(self, port):
        self.port = port
        self.carried = 0


@contextmanager
def slow_link(space, port, target_host, target_port, delay):
    log = space.path("slow-link")
    command = [sys.executable, HERE / "slow_link.py", port, target_host, target_port, delay]
    link = Link(port)
    with running(command, log) as daemon:
        up = lambda: is_listening(f"127.0.0.1:{port}")
        eventually("the slow link listens", up, daemons=[daemon])
        yield link
    link.carried = int(last_line(log.read_text()) or 0)


@contextmanager
def far_away(space, notes):
    size = space.size(GIB, 256 * MIB)
    share = data.random_file(space, size)
    port = tinyp2p.free_port()
    # Others are told the link's address, so nobody finds the way around it.
    around = ("--advertise", f"127.0.0.1:{port}")
    server = tinyp2p.Server(space, share, "127.0.0.2", options=around)
    tinyp2p.learn_root(server, FILE)
    without_delay = []

    def ours():
        data.warm(share / FILE)
        with (
            slow_link(space, port, server.address, server.port, DELAY) as link,
            server.running(),
            tinyp2p.mount(space, [f"127.0.0.1:{port}"], FILE) as mount,
        ):
            mount.wait_for_root(FILE)
            rate = read(mount.path / FILE, size)
            check(mount.path / FILE, share / FILE)
        if link.carried < size:
            raise Failure(f"only {link.carried} bytes came by the slow link")
        return rate

    def by_curl(delay):
        data.warm(share / FILE)
        by = tinyp2p.free_port()
        with slow_link(space, by, "127.0.0.1", web.port, delay):
            return size / 1e6 / timed(web.curl(FILE, by), 300).seconds

    def by_curl_at_once():
        without_delay.append(by_curl(0))
        return without_delay[-1]

    with others.nginx(space, share) as web:
        yield {
            "TinyP2P": ours,
            "curl": lambda: by_curl(DELAY),
            "curl, same proxy, no delay": by_curl_at_once,
        }
    if without_delay:
        rate = statistics.median(without_delay)
        notes.append(f"the delaying proxy itself carries {rate:.0f} MB/s of curl without delay")


ROWS = [
    Row(
        key="read",
        work="1 GiB cold sequential read",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(
            Bar("curl", at_least=0.7, aim=0.9),
            Bar("rclone", at_least=2.5),
            Bar("sshfs", at_least=3),
        ),
        contest=sequential,
    ),
    Row(
        key="random",
        work="4 KiB random reads, cold blocks, one thread",
        ours="TinyP2P",
        unit="IOPS",
        is_more_better=True,
        bars=(Bar("sshfs", at_least=1.5),),
        contest=scattered,
    ),
    Row(
        key="reread",
        work="reread of a 1 GiB file",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("local disk", at_least=0.9),),
        contest=again,
    ),
    Row(
        key="holders",
        work="four holders, 100 Mbit/s each",
        ours="four holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=3.6),),
        contest=many_holders,
    ),
    Row(
        key="latency",
        work="50 ms round trip, 1 GiB sequential",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("curl", at_least=0.9),),
        contest=far_away,
    ),
]
