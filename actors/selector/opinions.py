"""What people and benchmarks think of a model's answers, per task: a mean that forgets slowly, and what it adds to the
operator's word. Pure, and a fold of the log alone; sums and quotients only, so every machine comes to the same figure.

A judgement is a score from 0 to 1 with a weight: a person's rating weighs 1, an item that a benchmark scored
`ITEM_WEIGHT`, as suites hold many and resemble real requests less. With each weight w that comes, what was there keeps
MEMORY / (MEMORY + w) of its own: a rating weighs half after about 70 more, and no sum of weights exceeds MEMORY + 1 by
ratings alone. A model's quality for a task is

    (declared x DECLARED_WEIGHT + sum of score x weight) / (DECLARED_WEIGHT + sum of weights)

so that without a judgement it is what the topology declares (0.5 where it says nothing), after 20 ratings half of it
is theirs, and in the end five sixths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from understudy.messages.benchmarks import BenchmarkMeasured
from understudy.messages.events import FeedbackGiven

DECLARED_WEIGHT = 20.0
"""The operator's word counts as so many ratings."""
MEMORY = 100.0
ITEM_WEIGHT = 0.2
TASKS = 64
"""Of so many tasks a model's judgements are kept; the one that was judged least recently makes room."""


@dataclass(slots=True)
class Opinion:
    """Judgements of one model in one task, decayed: the sum of score x weight, and of the weights."""

    score: float = 0.0
    weight: float = 0.0

    def add(self, score: float, weight: float) -> None:
        """Fold judgements of this mean and this weight together."""
        keep = MEMORY / (MEMORY + weight)
        self.score = self.score * keep + score * weight
        self.weight = self.weight * keep + weight

    def quality(self, declared: float) -> float:
        """Between the operator's word and what was judged."""
        return (declared * DECLARED_WEIGHT + self.score) / (DECLARED_WEIGHT + self.weight)


def judged(opinions: dict[str, Opinion], event: FeedbackGiven | BenchmarkMeasured) -> None:
    """Fold what an event says of a model into its opinions by task."""
    for task, score, weight in _judgements(event):
        one = opinions.pop(task, None) or Opinion()
        one.add(min(1.0, max(0.0, score)), weight)
        opinions[task] = one
        if len(opinions) > TASKS:
            del opinions[next(iter(opinions))]


def _judgements(event: FeedbackGiven | BenchmarkMeasured) -> Iterable[tuple[str, float, float]]:
    if isinstance(event, FeedbackGiven):
        return [(event.task, event.rating, 1.0)] if event.task else []
    return [
        (one.task, one.score_u / (1_000_000 * one.scored), ITEM_WEIGHT * one.scored)
        for one in event.tasks
        if one.scored
    ]
