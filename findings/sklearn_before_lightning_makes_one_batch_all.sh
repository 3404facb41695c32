#!/usr/bin/env bash
# Finding: where scikit-learn's metrics are imported before Lightning, or torchvision is not installed, LightningCLI reads
# --trainer.limit_test_batches 1, which is one batch, as 1.0, which is all of them, and ends with status 0.
#
# Guess before: imports do not change what a command line means.
# Seen (Python 3.11, scikit-learn 1.9.1, lightning 2.6.6, torchvision 0.29.1, jsonargparse 4.53.0): Optional[Union[int, float]] and
# Optional[Union[float, int]] are equal and have the same hash, so typing's cache, of the last 128 types, hands out whichever was
# written first. torchvision, which torchmetrics imports where it is there, writes the first, as does Lightning's Trainer;
# scikit-learn writes the second, and so does lightning.fabric, which is imported before the Trainer. jsonargparse tries the members
# of a union in their order, and float takes "1". Other arguments of that type, such as limit_train_batches, are read alike.
# Way out: install torchvision and import Lightning before scikit-learn; or annotate with int | float | None, which no cache holds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 lightning==2.6.6 \
  'jsonargparse[signatures]==4.53.0' scikit-learn==1.9.1
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
flags="--trainer.limit_test_batches 1 --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false"
for first in lightning sklearn without; do
  [ $first != without ] || venv/bin/pip uninstall --quiet --yes torchvision
  venv/bin/python cli.py $first $flags 2>/dev/null | tail -n 1 > "$first"
done
one="limit_test_batches 1 batches [1]" all="limit_test_batches 1.0 batches [64]"
echo "lightning first: $(cat lightning); without torchvision: $(cat without)"
echo "scikit-learn first: $(cat sklearn)"
[ "$(cat lightning)" = "$one" ] || { echo "one batch is no longer one batch"; exit 1; }
[ "$(cat sklearn)" = "$all" ] && [ "$(cat without)" = "$all" ] || { echo "the order of imports no longer matters"; exit 1; }
