"""Hosts of their own on one bridge: network namespaces, each capped at a rate by `tc tbf`.

Commands enter only the network of a host (`nsenter --net`), so a mount made there is seen here. The
machine's own network never sees any of it.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import Failure, run, succeeds

SUBNET = "10.205.0"

PREFIX = "tinyp2p-bench-"


@dataclass
class Host:
    """One host."""

    namespace: str
    address: str

    @property
    def inside(self):
        """The prefix that runs a command in this host's network."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}", "--")


@contextmanager
def network(count, rate):
    """A reader's host and `count` hosts that send at most at `rate` (a tc rate such as 100mbit)."""
    reader = Host(f"{PREFIX}{os.getpid()}", f"{SUBNET}.254")
    holders = [Host(f"{reader.namespace}-{n}", f"{SUBNET}.{n}") for n in range(1, count + 1)]
    delete_networks()
    try:
        for host in [reader, *holders]:
            create(host)
        build_bridge(reader)
        for number, holder in enumerate(holders):
            plug_in(reader, holder, f"port{number}")
            cap(holder, rate)
        yield reader, holders
    finally:
        delete_networks()


@contextmanager
def alone():
    """One host with nothing but a loopback, whose counters see what its own nodes send and nothing else."""
    host = Host(f"{PREFIX}{os.getpid()}", "127.0.0.1")
    delete_networks()
    try:
        create(host)
        yield host
    finally:
        delete_networks()


def bytes_sent(host):
    """Over the loopback of a host so far, with the headers of every packet."""
    return traffic(host, "lo")[1]


def traffic(host, device):
    """Bytes received and sent by a device of a host so far, with the headers of every packet."""
    for line in run([*host.inside, "cat", "/proc/net/dev"]).splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == device:
            return int(counters.split()[0]), int(counters.split()[8])
    raise Failure(f"no {device} in {host.namespace}")


def create(host):
    run(["ip", "netns", "add", host.namespace])
    run(["ip", "-n", host.namespace, "link", "set", "lo", "up"])


def delete_networks():
    """Those of this run, and those of a run that was killed."""
    for namespace in Path("/run/netns").glob(f"{PREFIX}*"):
        owner = namespace.name.removeprefix(PREFIX).partition("-")[0]
        if owner == str(os.getpid()) or not Path("/proc", owner).exists():
            succeeds(["ip", "netns", "delete", namespace.name])


def build_bridge(host):
    ip = ["ip", "-n", host.namespace]
    run([*ip, "link", "add", "br0", "type", "bridge"])
    run([*ip, "address", "add", f"{host.address}/24", "dev", "br0"])
    run([*ip, "link", "set", "br0", "up"])


def plug_in(bridge, host, port):
    ip = ["ip", "-n", bridge.namespace]
    end = ["peer", "name", "eth0", "netns", host.namespace]
    run([*ip, "link", "add", port, "type", "veth", *end])
    run([*ip, "link", "set", port, "master", "br0", "up"])
    ip = ["ip", "-n", host.namespace]
    run([*ip, "address", "add", f"{host.address}/24", "dev", "eth0"])
    run([*ip, "link", "set", "eth0", "up"])


def cap(host, rate, device="eth0"):
    shape = ["tbf", "rate", rate, "burst", "64kb", "latency", "50ms"]
    run([*host.inside, "tc", "qdisc", "add", "dev", device, "root", *shape])
