"""Numbers from scores, targets and embeddings: curves, reliability, thresholds, distances."""

from mlcl.analysis.evaluation import (
    LEAST_IMAGES,
    Bools,
    Companion,
    CoOccurrence,
    Decisions,
    Floats,
    Ints,
    PRCurve,
    Reliability,
    co_occurrence,
    companions,
    decisions,
    pr_curve,
    reliability,
)

__all__ = [
    "LEAST_IMAGES",
    "Bools",
    "CoOccurrence",
    "Companion",
    "Decisions",
    "Floats",
    "Ints",
    "PRCurve",
    "Reliability",
    "co_occurrence",
    "companions",
    "decisions",
    "pr_curve",
    "reliability",
]
