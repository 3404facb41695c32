"""Methods over seeds: which runs are whose, whether they may be compared, and how sure a difference in mAP is."""
