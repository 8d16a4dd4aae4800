"""Homes behind routers, on a public network with a relay in it: what is between two friends.

    home 192.168.1.2 -- router -- 203.0.113.11 ==+== 203.0.113.12 -- router -- 192.168.1.2 home
                                                 |
                                           relay 203.0.113.1

The homes have the same address, and so have the insides of the routers, 192.168.1.1. Routers let in only
answers. The line of each router is capped in both directions.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts import PREFIX, Host, build_bridge, cap, create, delete_networks, plug_in
from processes import eventually, run, running

SUBNET = "203.0.113"
HOME = "192.168.1.2"
INSIDE = "192.168.1.1"

# How a router chooses the port that others see: that of the sender, or another for each connection.
PORT_PRESERVING = ""
SYMMETRIC = "fully-random"

# A router that took packets for itself would make entries of early ones from outside, and what its home
# sends there next would collide with them and get another port.
RULES = """
table ip home {{
    chain translate {{
        type nat hook postrouting priority srcnat;
        oifname eth0 masquerade {ports};
    }}
    chain here {{
        type filter hook input priority filter;
        iifname eth0 drop;
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept;
        iifname br0 accept;
    }}
}}
"""

SCRIPTS = Path(__file__).resolve().parents[1]

# What scripts/relay starts. It takes minutes to build, so that is not done here.
RELAY = SCRIPTS.parent / "target/relay/bin/iroh-relay"

# What a lab cannot do without.
NEEDS = ("ip", "tc", "nsenter", "nft", str(RELAY))


@dataclass
class Lab:
    """A host of the public network, and the homes."""

    relay: Host
    homes: list


@contextmanager
def lab(kinds, rate):
    """A home behind a router of each of these kinds, whose line has that rate (such as 100mbit)."""
    public = Host(f"{PREFIX}{os.getpid()}", f"{SUBNET}.254")
    relay = Host(f"{public.namespace}-relay", f"{SUBNET}.1")
    delete_networks()
    try:
        for host in public, relay:
            create(host)
        build_bridge(public)
        plug_in(public, relay, "relay")
        homes = [behind_router(public, kind, 11 + n, rate) for n, kind in enumerate(kinds)]
        yield Lab(relay, homes)
    finally:
        delete_networks()


def behind_router(public, kind, number, rate):
    """A home, and its router at 203.0.113.`number`."""
    router = Host(f"{public.namespace}-router{number}", f"{SUBNET}.{number}")
    inside = Host(router.namespace, INSIDE)
    home = Host(f"{public.namespace}-home{number}", HOME)
    create(router)
    create(home)
    port = f"port{number}"
    plug_in(public, router, port)
    cap(router, rate)
    cap(public, rate, port)
    build_bridge(inside)
    plug_in(inside, home, "home")
    for host, gateway in (router, public), (home, inside):
        run(["ip", "-n", host.namespace, "route", "add", "default", "via", gateway.address])
    run([*router.inside, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
    run([*router.inside, "nft", RULES.format(ports=kind)])
    return home


@contextmanager
def relay(space, host):
    """A relay on a host, as its owner would start it; gives what to say to --reach."""
    log = space.path("relay-log")
    command = [
        *host.inside,
        *(SCRIPTS / "relay", "--self-signed", host.address),
        *("--state", space.path("relay-state")),
    ]
    with running(command, log) as daemon:

        def announced():
            lines = log.read_text().splitlines()
            return next((line for line in lines if line.startswith("https://")), None)

        yield eventually("the relay serves", announced, daemons=[daemon])
