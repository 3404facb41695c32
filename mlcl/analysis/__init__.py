"""Numbers from scores, targets and embeddings: curves, reliability, thresholds, distances."""

from mlcl.analysis.evaluation import co_occurrence, companions, decisions, pr_curve, reliability, worst_errors

__all__ = ["co_occurrence", "companions", "decisions", "pr_curve", "reliability", "worst_errors"]
