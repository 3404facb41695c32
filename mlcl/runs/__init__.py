"""Run folders and what lies in them: configuration, environment, checkpoints, results."""
