"""Measurements that have no contenders: how something grows with members, or with files."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from contest import tell, verdict
from processes import Failure
from tools import missing


@dataclass(frozen=True)
class Metric:
    """One figure, and what it may be at most."""

    name: str
    value: float
    unit: str
    at_most: float | None = None

    def judge(self):
        return "stated" if self.at_most is None else verdict(self.value <= self.at_most)


@dataclass(frozen=True)
class Survey:
    """One measurement, of `amount` things of a kind.

    `take(space, notes)` gives the Metrics, one after the other, so that those before a failure count.
    `bars` are names and bars of those that have one, for the report of a survey that failed.
    """

    key: str
    work: str
    subject: str
    amount: int
    take: Callable
    bars: tuple = ()
    needs: tuple = ()
    about: str = ""


@dataclass
class Findings:
    """What became of a Survey."""

    survey: Survey
    metrics: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    failure: str | None = None

    def unmeasured(self):
        """Those bars that there is no figure for."""
        found = {metric.name for metric in self.metrics}
        return [(name, at_most) for name, at_most in self.survey.bars if name not in found]


def conduct(survey, space):
    """Takes all figures of a survey. What fails is in the findings."""
    findings = Findings(survey)
    began = time.monotonic()
    tell(f"{survey.key}: {survey.work}")
    try:
        if missing(survey.needs):
            raise Failure(f"left out: {', '.join(missing(survey.needs))} is not installed")
        for metric in survey.take(space, findings.notes):
            findings.metrics.append(metric)
            tell(f"  {metric.name}: {metric.value:.4g} {metric.unit}")
    except (Failure, OSError) as failure:
        findings.failure = str(failure)
        tell(f"  {failure}")
    tell(f"  took {time.monotonic() - began:.0f} s")
    return findings
