"""Which tools are there. What lacks one is left out and said to be, so that the rest can be measured."""

import os
import shutil

from processes import ENVIRONMENT

# Where Debian keeps what other Python programs load.
PYTHON = "/usr/lib/python3/dist-packages"

# What each contender is made of.
CONTENDERS = {
    "curl": ("nginx", "openssl", "curl"),
    "rclone": ("nginx", "openssl", "rclone"),
    "sshfs": ("sshd", "ssh", "ssh-keygen", "sshfs"),
    "rsync": ("sshd", "ssh", "ssh-keygen", "rsync"),
    "wormhole": (
        "wormhole",
        "twist3",
        f"{PYTHON}/wormhole_mailbox_server/__init__.py",
        f"{PYTHON}/wormhole_transit_relay/__init__.py",
    ),
}


def missing(names):
    """Those that are not installed: commands, or files by their whole paths."""
    path = os.pathsep.join([ENVIRONMENT["PATH"]])
    return [name for name in names if shutil.which(name, os.F_OK, path) is None]


def unless_missing(kind, contender):
    """A contender; in its place a text where its tools are not installed."""
    absent = missing(CONTENDERS[kind])
    return f"{', '.join(absent)} not installed" if absent else contender
