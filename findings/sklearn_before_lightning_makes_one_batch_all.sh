#!/usr/bin/env bash
# Finding: where scikit-learn's metrics are imported before Lightning, LightningCLI reads --trainer.limit_test_batches 1, which is
# one batch, as 1.0, which is all of them, and ends with status 0.
#
# Guess before: imports do not change what a command line means.
# Seen (Python 3.11, scikit-learn 1.9.1, lightning 2.6.6, jsonargparse 4.53.0): Optional[Union[int, float]] and
# Optional[Union[float, int]] are equal and have the same hash, so typing's cache hands out whichever was written first in the
# process. scikit-learn writes the second, Lightning's Trainer the first; jsonargparse tries the members of a union in their
# order, and float takes "1". Other arguments of that type, such as limit_train_batches, are read alike.
# Way out: import lightning first; or int | float | None, which no cache holds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6 'jsonargparse[signatures]==4.53.0' scikit-learn==1.9.1
cd "$folder"
cat > cli.py <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
if sys.argv.pop(1) == "sklearn":
    import sklearn.metrics  # noqa: F401
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

cli = LightningCLI(BoringModel, BoringDataModule, run=False, save_config_callback=None)
cli.trainer.test(cli.model, cli.datamodule, verbose=False)
print("limit_test_batches", repr(cli.trainer.limit_test_batches), "batches", cli.trainer.num_test_batches)
PYTHON
for first in lightning sklearn; do
  flags="--trainer.limit_test_batches 1 --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false"
  venv/bin/python cli.py $first $flags 2>/dev/null | tail -n 1 > "$first"
  echo "$first first: $(cat "$first")"
done
[ "$(cat lightning)" = "limit_test_batches 1 batches [1]" ] || { echo "one batch is no longer one batch"; exit 1; }
[ "$(cat sklearn)" = "limit_test_batches 1.0 batches [64]" ] || { echo "the order of imports no longer matters"; exit 1; }
