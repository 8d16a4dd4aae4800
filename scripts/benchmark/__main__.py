"""Measures the two programs side by side with what people use today. Started by scripts/bench."""

import argparse
import json
import os
import random
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import machine
import report
import rows_get
import rows_memory
import rows_names
import rows_reading
from contest import hold, tell
from processes import Failure
from space import space

ROWS = rows_reading.ROWS + rows_names.ROWS + rows_get.ROWS + rows_memory.ROWS

LEAST_PAIRS = 5


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures TinyP2P side by side with curl, rclone, sshfs and rsync, on this machine and "
        "in one run, and says which of its bars it reaches. Needs root and a machine that does "
        "nothing else; takes about half an hour.",
        epilog="Rows: " + ", ".join(row.key for row in ROWS) + ". Exit status: 0 all bars are "
        "reached, 1 some are not (or were not measured), 2 wrong usage.",
    )
    parser.add_argument("--pairs", type=pairs, metavar="N", help=f"rounds of a row [{LEAST_PAIRS}]")
    parser.add_argument("--rows", type=expression, default="", metavar="REGEX", help="only these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument(
        "--quick", action="store_true", help="two rounds with small files, to try the rows out"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/var/cache/tinyp2p-bench"),
        metavar="DIR",
        help="where sample files are kept for the next run [%(default)s]",
    )
    parser.add_argument(
        "--leave-memory",
        action="store_true",
        help="only warn when the hypervisor takes back free memory; without this, nearly all memory "
        "is touched once to prevent that, which empties the page cache",
    )
    parser.add_argument("--programs", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pairs = options.pairs or (2 if options.quick else LEAST_PAIRS)
    if options.pairs < LEAST_PAIRS and not options.quick:
        parser.error(f"--pairs below {LEAST_PAIRS} goes only with --quick")
    options.rows = [row for row in ROWS if options.rows == "" or options.rows.search(row.key)]
    if not options.rows:
        parser.error("no row has such a name")
    return options


def pairs(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def expression(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from error


def stop(_number, _frame):
    """The first signal cleans up and ends; further ones do not disturb that."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    tell("interrupted; cleaning up")
    sys.exit(130)


def prepare_memory(stack, here, may_cure, warnings):
    """Checks the memory and cures it if need be and allowed. Gives the rates in MB/s."""
    rates = machine.check_memory(here.tmpfs)
    if not machine.is_quiet(rates) and may_cure:
        tell("memory goes back to the hypervisor; keeping it here")
        stack.enter_context(machine.quiet_memory())
        rates = machine.check_memory(here.tmpfs)
    if not machine.is_quiet(rates):
        warnings.append(
            "Memory is slow to touch (2 GB to tmpfs at "
            + " and ".join(f"{rate / 1e9:.1f} GB/s" for rate in rates)
            + "; 1.5 GB/s and more are expected): whoever reads through a page cache looks slower "
            "than it is."
        )
    return [round(rate / 1e6) for rate in rates]


def headline(facts, options):
    kind = "QUICK RUN, small files: the figures only show that it works. " if options.quick else ""
    return (
        f"{kind}{facts['date']}, {facts['cores']} cores ({facts['processor']}), "
        f"{facts['memory_gib']} GiB, Linux {facts['kernel']}, {options.pairs} rounds."
    )


def main():
    options = arguments()
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, stop)
    if os.geteuid() != 0:
        sys.exit("bench: mounting, dropping caches and capping links need root")
    facts = machine.facts()
    warnings = []
    if facts["load"] > 0.3 * facts["cores"]:
        warnings.append(f"The machine was busy before (load {facts['load']}).")
    chance = random.Random()
    with ExitStack() as stack:
        here = stack.enter_context(space(options.data.resolve(), options.programs, options.quick))
        may_cure = not (options.quick or options.leave_memory)
        facts["tmpfs_mb_per_second"] = prepare_memory(stack, here, may_cure, warnings)
        outcomes = [hold(row, here, options.pairs, chance) for row in options.rows]
    settings = {"is_quick": options.quick, "rounds": options.pairs}
    print(headline(facts, options), "", report.table(outcomes), *warnings, sep="\n")
    if options.json:
        document = report.document(facts, settings, warnings, outcomes)
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 1 if report.is_missed(outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError) as failure:
        sys.exit(f"bench: {failure}")
