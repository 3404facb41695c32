"""Where the results to report lie; imports nothing heavy, so that mistakes are answered at once."""

from pathlib import Path

from mlcl.errors import MlclError


def results_in(run: Path) -> Path:
    """The folder with ``scores.npz``: this run or test of a run, or the newest in it; MlclError if there is none."""
    if not run.is_dir():
        raise MlclError(f"{run}: no such folder; give a run, such as runs/demo/version_0")
    if (run / "scores.npz").is_file():
        return run
    found = [*run.glob("*/scores.npz")] or [*run.glob("*/*/scores.npz")]
    if not found:
        raise MlclError(f"{run}: no scores.npz in this folder or the runs in it; mlcl test writes one")
    return max(found, key=lambda file: file.stat().st_mtime).parent
