"""The lowest versions that pyproject.toml allows, as constraints for pip: ``python tests/minimum.py > FILE``."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def lowest() -> list[str]:
    """``name==version`` for every direct dependency that a user's run may import, with its lower bound."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["export"]]
    found = {line: re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", line) for line in wanted}
    if other := [line for line, match in found.items() if not match]:
        raise SystemExit(f"not NAME>=VERSION, so no lowest version: {other}")
    return [f"{match[1]}=={match[2]}" for match in found.values() if match]


if __name__ == "__main__":
    print("\n".join(lowest()))
