"""What ``--help`` answers at once: text only, so that nothing heavy is imported. A test keeps the flags true."""

from mlcl import __version__
from mlcl.cli import verbs

VERBS = {
    "fit": "train, and test the best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
}

_GENERAL = """mlcl {version}: image classification with many labels per image

usage: mlcl <verb> [options]

{verbs}

examples:
  mlcl fit --config configs/demo.yaml
  mlcl fit --config configs/coco.yaml --data.root DIR --model.network.head SemanticAttention
  mlcl fit --config configs/coco.yaml --ckpt_path last         continue where the last run stopped
  mlcl predict --ckpt_path runs/coco/version_0 --images DIR --output predictions.csv

The options of a verb: mlcl <verb> --help. MLCL_DEBUG=1 shows the traceback of an error.
"""

_COMMON = """
data
  --data CLASS                  COCO2014, VOC2007, VOC2012, CSVDataset, Demo, or yours as file.Class
  --data.root DIR               where it lies
  --data.image_size 448         side in pixels of what the network sees
  --data.batch_size 32          per device
  --data.num_workers 4          loader processes per device
  --data.val_fraction 0.1       hold out training images to select the checkpoint
  --data.on_bad_image skip      go on without pictures that cannot be read (mlcl check finds them)
  --data.help CLASS             all settings of a dataset
"""

_TRAINING = """
model
  --model.network.backbone NAME any timm model; resnet101.tv_in1k is the papers'
  --model.network.weights FILE  local weights for it
  --model.network.head CLASS    GlobalPool, SemanticAttention, QueryDecoder, ..., or yours as file.Class
  --model.classification_loss CLASS   BinaryCrossEntropy, AsymmetricLoss, ...
  --model.embedding_loss CLASS  LabelContrastiveLoss, DualContrastiveLoss, ..., on the class-specific features
  --model.embedding_weight 1.0  its weight beside the classification loss
  --model.embedding_start 5     epochs before it enters
  --model.embedding_ramp 5      epochs over which its weight then grows
  --model.optimizer CLASS       any of torch.optim; --model.optimizer.lr 0.0005
  --model.schedule CLASS        OneCycle, WarmupCosine, StepDecay, Constant
  --model.lr_mult '{backbone: 0.1}'   learning rate by part
  --model.init_from FILE        start from another run's network: its checkpoint, or its folder under runs
  --model.network.head.help CLASS     all settings of a head; the same for every CLASS above

training
  --trainer.max_epochs 20       --trainer.devices 4        --trainer.precision bf16-mixed
  --data.augment NAME           none, flip, csra, mulcon_stage1, mulcon, sadcl_stage1, sadcl
  --data.augment_on device      augment whole batches where the network is; the same pictures
  --data.cache disk             keep pictures decoded and resized for all later runs; ram: until this one ends
  --model.compile true          let torch compile network and embedding loss
  --ema_decay 0.9997            validate, save and test a moving average of the weights
  --seed_everything 0           of initial weights, order and augmentation
  --test_after_fit false        do not test the best checkpoint at the end
"""

_USAGE = {
    "fit": "usage: mlcl fit --config FILE [--config FILE ...] [--KEY VALUE ...]\n\nTrain; later options win.\n",
    "validate": "usage: mlcl validate --ckpt_path FILE|RUN|last [--KEY VALUE ...]\n\nEvaluate on validation images.\n",
    "test": "usage: mlcl test --ckpt_path FILE|RUN|last [--KEY VALUE ...]\n\nEvaluate on the test images.\n",
}

_RUN = """
run
  --config FILE                 YAML; a second one is laid over the first
  --name NAME                   the run's folder is runs/NAME/version_N; by default the name of the config
  --ckpt_path {ckpt}
  --report true                 after a test, write report.html beside its results (mlcl report does so too)
  --trainer.logger WandbLogger  Weights & Biases beside the files in the run's folder; for TensorBoard
                                --config configs/loggers/tensorboard.yaml
  --log_images 24               pictures of errors that it gets, at most
  --import MODULE               a module of yours whose classes the checkpoint may name
  --print_config                show the whole configuration and stop
  --help_all                    every option there is, the trainer's too
"""


def of(verb: str) -> str:
    """The help of a verb."""
    which = {"fit": "FILE|last         continue this run; last is the newest of this name"}
    ckpt = which.get(verb, "FILE|RUN|last     what to evaluate; of a run's folder its best checkpoint")
    return _USAGE[verb] + _RUN.format(ckpt=ckpt) + _COMMON + (_TRAINING if verb == "fit" else "")


def general() -> str:
    """The help of mlcl itself."""
    every = VERBS | {verb: verbs.summary(verb) for verb in verbs.VERBS}
    return _GENERAL.format(version=__version__, verbs="\n".join(f"  {verb:10} {text}" for verb, text in every.items()))
