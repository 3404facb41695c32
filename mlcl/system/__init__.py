"""The process and its surroundings: signals, terminal, files, YAML, random seeds."""
