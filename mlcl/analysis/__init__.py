"""Numbers from scores, targets and embeddings: curves, reliability, thresholds, distances."""

from mlcl.analysis.evaluation import (
    LEAST_IMAGES,
    Bools,
    Companion,
    CoOccurrence,
    Decisions,
    Errors,
    Floats,
    Ints,
    PRCurve,
    Reliability,
    co_occurrence,
    companions,
    decisions,
    pr_curve,
    reliability,
    worst_errors,
)

__all__ = [
    "LEAST_IMAGES",
    "Bools",
    "CoOccurrence",
    "Companion",
    "Decisions",
    "Errors",
    "Floats",
    "Ints",
    "PRCurve",
    "Reliability",
    "co_occurrence",
    "companions",
    "decisions",
    "pr_curve",
    "reliability",
    "worst_errors",
]
