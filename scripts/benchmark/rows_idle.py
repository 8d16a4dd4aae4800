"""Surveys of networks in which nobody does anything: what it costs to be a member.

All nodes run in a network namespace of their own, whose loopback counts what they send, with the headers
of every packet. They share one file each and do not look for members by multicast. Counting begins once
the rate no longer falls, and lasts a minute.
"""

import time
from contextlib import ExitStack

import hosts
import tinyp2p
from machine import MIB
from processes import Failure, eventually, run
from survey import Metric, Survey

SECONDS = 60
# How long the counting takes in a run for development.
QUICK_SECONDS = 15

# The network has settled when of two stretches that long the second sends nearly as much as the first.
STRETCH = 60
NEARLY = 0.9
# So few bytes a second and node come and go by chance.
CHANCE = 50
PATIENCE = 300

# Threads that end take their counters with them, so these are read that often.
LOOK = 5

NEWCOMER = "127.205.255.1"

# Of a network of that many the issues demand something.
BYTES_AT_MOST = {50: 2000}
WAKE_UPS_AT_MOST = {2: 1, 50: 10}


def take(count):
    def idle(space, notes):
        with hosts.alone() as host, ExitStack() as stack:
            began = time.monotonic()
            servers = [member(space, host, number) for number in range(1, count + 1)]
            daemons = [started(stack, server) for server in servers]
            notes.append(
                f"starting them took {time.monotonic() - began:.0f} s, settling "
                f"{settle(space, lambda: hosts.bytes_sent(host), count):.0f} s more"
            )
            seconds = space.size(SECONDS, QUICK_SECONDS)
            yield from counted(host, daemons, seconds, count)
            yield Metric("connections", sockets(host) / count, "a node")
            memory = sum(daemon.memory("VmRSS") for daemon in daemons) / count
            yield Metric("resident memory", memory / MIB, "MiB a node")
            yield joined(space, host, servers[0], count)

    return idle


def member(space, host, number):
    share = space.directory(f"share-{number}")
    (share / f"of-{number}").write_text(f"{number}\n")
    peers = ("127.205.0.1:15204",) if number > 1 else ()
    address = f"127.205.{number >> 8}.{number & 255}"
    return tinyp2p.Server(
        space, share, address, tinyp2p.PORT, name=f"m{number}", inside=host.inside, peers=peers
    )


def started(stack, server):
    """One after the other: each stretches the password in 64 MiB when it starts."""
    daemon = server.start()
    stack.callback(daemon.stop)
    eventually(f"{server.name} listens", server.is_up, daemons=[daemon])
    return daemon


def settle(space, traffic, count):
    """Waits until the nodes send no more than they go on sending; gives how long that took.

    `traffic()` gives the bytes of all of them so far.
    """
    stretch = space.size(STRETCH, QUICK_SECONDS)
    began = time.monotonic()
    before = None
    while time.monotonic() - began < PATIENCE:
        sent = traffic()
        time.sleep(stretch)
        now = (traffic() - sent) / stretch / count
        if before is not None and now >= NEARLY * before - CHANCE:
            break
        before = now
    return time.monotonic() - began


def counted(host, daemons, seconds, count):
    """What all nodes send, use and wake up, for each of them and each second."""
    began = time.monotonic()
    sent, used = hosts.bytes_sent(host), cpu_seconds(daemons)
    wakers = [Waker(daemon) for daemon in daemons]
    watch(wakers, seconds)
    sent, used = hosts.bytes_sent(host) - sent, cpu_seconds(daemons) - used
    share = (time.monotonic() - began) * count
    bytes_bar, wake_ups_bar = BYTES_AT_MOST.get(count), WAKE_UPS_AT_MOST.get(count)
    yield Metric("sent", sent / share, "bytes a second and node", bytes_bar)
    yield Metric("CPU", used / share * 1e3, "ms a second and node")
    wake_ups = sum(waker.count for waker in wakers)
    yield Metric("wake-ups", wake_ups / share, "a second and node", wake_ups_bar)


def cpu_seconds(daemons):
    for daemon in daemons:
        daemon.check()
    return sum(daemon.cpu_seconds() for daemon in daemons)


class Waker:
    """Counts how often the threads of a process wake up: once for each time they are switched away from."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.before = daemon.switches()
        self.count = 0

    def look(self):
        now = self.daemon.switches()
        self.count += sum(count - self.before.get(thread, 0) for thread, count in now.items())
        self.before = now


def watch(wakers, seconds):
    """Lets them count for that long."""
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(LOOK, left))
        for waker in wakers:
            waker.look()


def sockets(host):
    """Connected sockets of the whole network."""
    return len(run([*host.inside, "ss", "-Htn", "state", "established"]).splitlines())


def joined(space, host, server, count):
    """How long a newcomer takes from its start until its mount lists a file of everybody."""
    began = time.monotonic()
    where = {"listen": NEWCOMER, "inside": host.inside, "is_settled": False}
    with tinyp2p.mount(space, [server.peer], "of-1", **where) as mount:
        everybody = lambda: len(run(["ls", mount.path], timeout=60).split()) == count
        eventually(f"files of all {count} members in a mount", everybody, timeout=120)
        return Metric("a new mount lists the files of all after", time.monotonic() - began, "s")


def surveys(counts):
    return [
        Survey(
            key=f"idle-{count}",
            work=f"{count} idle members",
            subject="members",
            amount=count,
            take=take(count),
            bars=bars(count),
            needs=("ip", "nsenter"),
            about=f"what {count} nodes send, use and wake up while nobody reads",
        )
        for count in counts
    ]


def bars(count):
    names = [("sent", BYTES_AT_MOST), ("wake-ups", WAKE_UPS_AT_MOST)]
    return tuple((name, demanded[count]) for name, demanded in names if count in demanded)


def check_counts(counts):
    """The addresses of members end where that of the newcomer begins."""
    if min(counts) < 2 or max(counts) > 60_000:
        raise Failure("--members takes numbers from 2 to 60000")
