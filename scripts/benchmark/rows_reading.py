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
from measure import figure, rate
from processes import Failure, eventually, is_listening, last_line, run, running
from tools import unless_missing

HERE = Path(__file__).parent


def read(space, path, size, timeout=300):
    """Reads a file from its beginning to its end, as `cp` would; gives the Work of that."""
    done = space.timed(["dd", f"if={path}", "of=/dev/null", "bs=1M"], timeout)
    if f"\n{size} bytes" not in "\n" + done.errors:
        raise Failure(f"not {size} bytes in {path}: {last_line(done.errors)}")
    return done


def check(path, original):
    """Fails unless a file is the same as the original."""
    run(["cmp", path, original], timeout=300)


UNCACHED = "TinyP2P, no disk cache"


@contextmanager
def sequential(space, notes):
    size = space.size(GIB, 256 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def ours(*options):
        data.warm(share / FILE)
        with tinyp2p.cold(server, FILE, options) as mount:
            mount.wait_for_root(FILE)
            return read_and_check(mount.path)

    def by_curl():
        data.warm(share / FILE)
        return rate(space.timed(web.curl(FILE), 300), size)

    def by_rclone():
        data.warm(share / FILE)
        with others.rclone(space, web, FILE) as mountpoint:
            return read_and_check(mountpoint)

    def by_sshfs():
        data.warm(share / FILE)
        with others.sshfs(space, shell, share, FILE) as mountpoint:
            return read_and_check(mountpoint)

    def read_and_check(mountpoint):
        work = read(space, mountpoint / FILE, size)
        check(mountpoint / FILE, share / FILE)
        return rate(work, size)

    with others.nginx(space, share) as web, others.sshd(space) as shell:
        yield {
            "TinyP2P": ours,
            UNCACHED: lambda: ours("--cache-size", "0"),
            "curl": unless_missing("curl", by_curl),
            "rclone": unless_missing("rclone", by_rclone),
            "sshfs": unless_missing("sshfs", by_sshfs),
        }
    notes.append(f"all but sshfs encrypt with {others.CIPHER}")


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
            return reads(mount.path)

    def by_sshfs():
        data.warm(share / FILE)
        with others.sshfs(space, shell, share, FILE) as mountpoint:
            return reads(mountpoint)

    def reads(mountpoint):
        """Each read is in a stretch of 128 KiB of its own, so none finds what another has brought along."""
        reader = [
            *("fio", "--name=random", f"--filename={mountpoint / FILE}", "--readonly"),
            *("--rw=randread", "--bs=4k", "--blockalign=128k", f"--number_ios={count}"),
            *("--ioengine=psync", "--fadvise_hint=random"),
            *(f"--randseed={random.randrange(1 << 31)}", "--output-format=json"),
        ]
        work = space.timed(reader, timeout=300)
        done = json.loads(work.output)["jobs"][0]
        if done["error"] or done["read"]["total_ios"] != count:
            raise Failure(f"{done['read']['total_ios']} of {count} reads, error {done['error']}")
        return figure(done["read"]["iops"], work.cpu / count * 1e6, work)

    with others.sshd(space) as shell:
        yield {"TinyP2P": ours, "sshfs": unless_missing("sshfs", by_sshfs)}


@contextmanager
def again(space, _notes):
    size = space.size(GIB, 256 * MIB)
    share = data.random_file(space, size)
    server = tinyp2p.Server(space, share)
    with tinyp2p.cold(server, FILE) as mount:
        mount.wait_for_root(FILE)
        check(mount.path / FILE, share / FILE)

        def by_kernel(directory):
            work = read(space, directory / FILE, size)
            return figure(size / 1e6 / work.seconds, work.system / (size / GIB), work)

        yield {
            "TinyP2P": lambda: by_kernel(mount.path),
            "local disk": lambda: by_kernel(share),
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
                work = read(space, mount.path / FILE, size)
                check(mount.path / FILE, share / FILE)
                return rate(work, size)

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
            work = read(space, mount.path / FILE, size)
            check(mount.path / FILE, share / FILE)
        if link.carried < size:
            raise Failure(f"only {link.carried} bytes came by the slow link")
        return rate(work, size)

    def by_curl(delay):
        data.warm(share / FILE)
        by = tinyp2p.free_port()
        with slow_link(space, by, "127.0.0.1", web.port, delay):
            return rate(space.timed(web.curl(FILE, by), 300), size)

    def by_curl_at_once():
        done = by_curl(0)
        without_delay.append(done.value)
        return done

    with others.nginx(space, share) as web:
        yield {
            "TinyP2P": ours,
            "curl": unless_missing("curl", lambda: by_curl(DELAY)),
            "curl, same proxy, no delay": unless_missing("curl", by_curl_at_once),
        }
    if without_delay:
        carried = statistics.median(without_delay)
        notes.append(f"the delaying proxy itself carries {carried:.0f} MB/s of curl without delay")
    notes.append("the CPU of the delaying proxy is in the figures of both")


NETWORKS = ("ip", "tc", "nsenter")

ROWS = [
    Row(
        key="read",
        work="1 GiB cold sequential read",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(
            Bar("curl", at_most=1.08, of="cpu", mine=UNCACHED),
            Bar("curl", at_most=1.2, of="cpu"),
            Bar("curl", at_least=0.85),
            Bar("rclone", at_least=1.9),
            Bar("sshfs", at_least=4.5),
        ),
        contest=sequential,
        cpu_unit="CPU s/GiB",
        about="dd of a file through a new mount, with and without the disk cache; curl from nginx, rclone "
        "mount, sshfs",
    ),
    Row(
        key="random",
        work="4 KiB random reads, cold blocks, one thread",
        ours="TinyP2P",
        unit="IOPS",
        is_more_better=True,
        bars=(Bar("sshfs", at_least=1.4),),
        contest=scattered,
        cpu_unit="CPU us/read",
        needs=("fio",),
        about="fio with psync; sshfs",
    ),
    Row(
        key="reread",
        work="reread of a 1 GiB file",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("local disk"), Bar("local disk", of="cpu")),
        contest=again,
        cpu_unit="system s/GiB",
        about="dd of a file that the kernel has in its page cache; the same of the local disk",
    ),
    Row(
        key="holders",
        work="four holders, 100 Mbit/s each",
        ours="four holders",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("one of them", at_least=3.6),),
        contest=many_holders,
        cpu_unit="CPU s/GiB",
        needs=NETWORKS,
        about="dd of a file that four members have, each behind a link of 100 Mbit/s; one of them alone",
    ),
    Row(
        key="latency",
        work="50 ms round trip, 1 GiB sequential",
        ours="TinyP2P",
        unit="MB/s",
        is_more_better=True,
        bars=(Bar("curl", at_least=0.9),),
        contest=far_away,
        cpu_unit="CPU s/GiB",
        about="dd of a file over a link of 25 ms each way; curl over the same",
    ),
]
