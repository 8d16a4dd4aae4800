"""The sample files, made once and kept for the next run.

Each function gives a directory to share. It is made under another name and renamed when it is
complete, so a run that was interrupted leaves nothing that looks done.
"""

import os
import shutil

from machine import GIB, MIB

FILE = "file"


def kept(space, name, fill):
    """The directory `name` of the kept data, made by `fill(path)` if it is not there yet."""
    directory = space.data / name
    if not directory.is_dir():
        part = space.data / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        fill(part)
        part.rename(directory)
    return directory


def random_file(space, size):
    """One file of that many random bytes."""

    def fill(directory):
        with open(directory / FILE, "wb") as file:
            file.writelines(os.urandom(MIB) for _ in range(0, size, MIB))

    return kept(space, f"random-{size // MIB}-MiB", fill)


def sparse_file(space, size):
    """One file of that many zeros, which takes no room on the disk."""

    def fill(directory):
        with open(directory / FILE, "wb") as file:
            file.truncate(size)

    return kept(space, f"zeros-{size // GIB}-GiB", fill)


def names(space, count):
    """A directory `names` of that many sparse files of various sizes, none of them empty."""

    def fill(directory):
        (directory / "names").mkdir()
        for number in range(count):
            with open(directory / "names" / f"holiday-{number:06}.jpeg", "wb") as file:
                file.truncate(1 + number % 4095)

    return kept(space, f"names-{count}", fill)


def small_files(space, count):
    """A directory `small` of that many files of 4 KiB of random bytes."""

    def fill(directory):
        (directory / "small").mkdir()
        for number in range(count):
            (directory / "small" / f"note-{number:05}.txt").write_bytes(os.urandom(4096))

    return kept(space, f"small-{count}", fill)


def tree(space, directories, files):
    """A directory `tree` of that many directories, each with that many empty files."""

    def fill(directory):
        for outer in range(directories):
            inner = directory / "tree" / f"album-{outer:04}"
            inner.mkdir(parents=True)
            for number in range(files):
                os.mknod(inner / f"photo-{number:04}.jpeg")

    return kept(space, f"tree-{directories}-{files}", fill)


def numbered(space, directories, files):
    """A directory `tree` of that many directories with that many empty files each, no two of which
    have the same name.
    """

    def fill(directory):
        for outer in range(directories):
            inner = directory / "tree" / f"album-{outer:04}"
            inner.mkdir(parents=True)
            for number in range(outer * files, (outer + 1) * files):
                os.mknod(inner / f"photo-{number:07}.jpeg")

    return kept(space, f"numbered-{directories}-{files}", fill)


# Files in one directory of `single_bytes`.
CROWD = 1000


def single_bytes(space, count):
    """A directory `tree` of that many files of one byte, a thousand in each of its directories."""

    def fill(directory):
        for first in range(0, count, CROWD):
            inner = directory / "tree" / f"album-{first // CROWD:04}"
            inner.mkdir(parents=True)
            for number in range(first, min(first + CROWD, count)):
                (inner / f"photo-{number:07}.jpeg").write_bytes(bytes([number % 256]))

    return kept(space, f"bytes-{count}", fill)


def has_single_bytes(space, count):
    return (space.data / f"bytes-{count}").is_dir()


def warm(*paths):
    """Reads files into the page cache: what a server sends comes from there for every contender."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
