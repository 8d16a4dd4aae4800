"""A row of the table: contenders that do the same work in turns, and the bars that ours must reach.

The machine is not the same from one minute to the next, so only figures of one round are compared with
one another: in each round every contender has one turn, in shuffled order, and a ratio is the median
over the rounds of ours against theirs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from processes import Failure


@dataclass(frozen=True)
class Bar:
    """What a row demands: to be so many times as good as another, or to stay below a figure."""

    against: str | None = None
    at_least: float | None = None
    aim: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Row:
    """One kind of work.

    `contest(space, notes)` gives a context manager; within it are the contenders, a function for each
    name that does the work once and gives a figure in `unit`. `notes` takes sentences for the report.
    """

    key: str
    work: str
    ours: str
    unit: str
    is_more_better: bool
    bars: tuple
    contest: Callable
    is_repeated: bool = True


@dataclass
class Outcome:
    """What became of a row."""

    row: Row
    rounds: list = field(default_factory=list)
    failures: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    setup_failure: str | None = None

    def figures(self, name):
        return [figures[name] for figures in self.rounds if name in figures]

    def names(self):
        return sorted({name for figures in self.rounds for name in figures})

    def ratios(self, other):
        """How many times as good ours was, in each round that both finished."""
        ours = self.row.ours
        both = [figures for figures in self.rounds if ours in figures and other in figures]
        pairs = [(figures[ours], figures[other]) for figures in both]
        if self.row.is_more_better:
            return [mine / theirs for mine, theirs in pairs]
        return [theirs / mine for mine, theirs in pairs]

    def obstacle(self, bar):
        """Why a bar was not measured; None if it was."""
        if self.setup_failure:
            return self.setup_failure
        for name in self.row.ours, bar.against:
            if name in self.failures:
                return f"{name}: {self.failures[name]}"
        return None if self.rounds else "no round was finished"

    def judge(self, bar):
        """`reached`, `NOT REACHED` or `NOT MEASURED`."""
        if self.obstacle(bar):
            return "NOT MEASURED"
        return "reached" if self.holds(bar) else "NOT REACHED"

    def holds(self, bar):
        if bar.at_most is not None:
            return max(self.figures(self.row.ours)) <= bar.at_most
        return bar.at_least is None or statistics.median(self.ratios(bar.against)) >= bar.at_least


def hold(row, space, pairs, chance):
    """Runs all rounds of a row. What fails is in the outcome."""
    outcome = Outcome(row)
    began = time.monotonic()
    tell(f"{row.key}: {row.work}")
    try:
        with row.contest(space, outcome.notes) as contenders:
            for number in range(pairs if row.is_repeated else 1):
                figures = play_round(outcome, contenders, chance)
                shown = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
                tell(f"  round {number + 1}: {shown} {row.unit}")
                if row.ours in outcome.failures:
                    break
    except (Failure, OSError) as failure:
        outcome.setup_failure = str(failure)
        tell(f"  {failure}")
    tell(f"  took {time.monotonic() - began:.0f} s")
    return outcome


def play_round(outcome, contenders, chance):
    """One turn for every contender that has not failed before."""
    turns = [name for name in contenders if name not in outcome.failures]
    chance.shuffle(turns)
    figures = {}
    outcome.rounds.append(figures)
    for name in turns:
        try:
            figures[name] = take_turn(contenders[name], is_ours=name == outcome.row.ours)
        except (Failure, OSError) as failure:
            outcome.failures[name] = str(failure)
            tell(f"  {name}: {failure}")
    return figures


def take_turn(contender, is_ours):
    """One turn. Others may fail once and try again, so that theirs is a figure to be compared with."""
    try:
        return contender()
    except (Failure, OSError) as failure:
        if is_ours:
            raise
        tell(f"  {failure}; once more")
        return contender()


def tell(text):
    """Progress goes to standard error, so that standard output is the table alone."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
