"""Whether runs have the same head, medium and tail classes, so that the mAP of each group can be compared."""

from collections.abc import Sequence

import numpy as np

from mlcl.comparison.folders import shown
from mlcl.runs.results import Results


def not_compared(runs: Sequence[Results]) -> str:
    """Why the groups of aligned runs cannot be compared, or nothing."""
    if without := [shown(run.folder) for run in runs if run.frequency is None]:
        return f"there are no such groups in metrics.json of {without[0]} ({len(without)} of {len(runs)} runs)"
    first, borders = runs[0].frequency or (None, None)
    for run in runs[1:]:
        counts, own = run.frequency or (None, None)
        if own != borders:
            return f"{shown(runs[0].folder)} has the borders {borders}, {shown(run.folder)} {own}"
        if not np.array_equal(first, counts):  # type: ignore[arg-type]
            return f"{shown(runs[0].folder)} and {shown(run.folder)} were trained on other labels"
    return ""
