#!/usr/bin/env bash
# Finding: started by torchrun with four processes on a CPU, a Lightning Trainer with devices=1 or devices="auto" trains four
# separate models, each as rank 0 of a world of one, and all four processes end with status 0.
#
# Guess before: torchrun's WORLD_SIZE=4 is used, as Lightning does under SLURM, at least with "auto"; or it is refused, as
# devices=2 is.
# Seen (lightning 2.6.6, torch 2.14.1): on a CPU "auto" means one device, and one device means a strategy that never looks at
# torchrun's environment: global rank 0 and world size 1 in each process, every sample seen by every process, checkpoints of one
# name written over each other, and the numbers of whichever process wrote last. devices=2 is refused, devices=4 trains one model.
# Way out: give devices the number of processes per node; or compare trainer.world_size with WORLD_SIZE before training.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6
cd "$folder"
cat > train.py <<'PYTHON'
import os
import sys

import lightning as L
from lightning.pytorch.demos.boring_classes import BoringModel

devices = sys.argv[1] if sys.argv[1] == "auto" else int(sys.argv[1])
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = L.Trainer(accelerator="cpu", devices=devices, max_steps=2, **quiet)
trainer.fit(BoringModel())
print(f"rank {trainer.global_rank} of {trainer.world_size}, torchrun's {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
PYTHON
for devices in 1 auto 2 4; do
  status=0
  OMP_NUM_THREADS=1 venv/bin/torchrun --nproc-per-node 4 train.py $devices > "log_$devices" 2>&1 || status=$?
  alone=$(grep -c '^rank 0 of 1,' "log_$devices" || true)
  together=$(grep -c '^rank . of 4,' "log_$devices" || true)
  echo "devices=$devices: status $status, $alone processes alone, $together together" | tee -a seen
done
venv/bin/python -c "import lightning, torch; print('lightning', lightning.__version__, 'torch', torch.__version__)"
diff - seen <<'SEEN' || { echo "Lightning now does something else"; exit 1; }
devices=1: status 0, 4 processes alone, 0 together
devices=auto: status 0, 4 processes alone, 0 together
devices=2: status 1, 0 processes alone, 0 together
devices=4: status 0, 0 processes alone, 4 together
SEEN
