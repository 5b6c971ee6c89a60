"""From two scrapes of the metrics to one sentence: what makes the trainer wait, and what to change.

`parse` reads a text exposition, `judge` compares two of them. A verdict has the figures of each rank and data set and
the findings, the most important first. Its first sentence names the cause and not its effects: while the circuit
breaker of a replica is open the trainer waits for "source", and the verdict names the breaker.
"""

from __future__ import annotations

from streaming.monitoring.diagnosis.figures import Figures
from streaming.monitoring.diagnosis.finding import Finding
from streaming.monitoring.diagnosis.judgement import Verdict, judge
from streaming.monitoring.diagnosis.scrape import Scrape, merge, parse

__all__ = ["Figures", "Finding", "Scrape", "Verdict", "judge", "merge", "parse"]
