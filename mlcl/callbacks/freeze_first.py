"""First the head alone, then the whole network (``model.network.freeze_epochs``)."""

from typing import Any

from lightning import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.nn import Parameter

from mlcl.distributed import SharedError, world_size
from mlcl.network import Network
from mlcl.system.console import say


class FreezeFirst(Callback):
    """Holds the backbone in the first ``freeze_epochs`` epochs, by their number alone: a resume needs no state.

    The optimizer has its parameters from the start, for the schedule's sake; without a gradient it leaves them alone.
    """

    _held: tuple[Parameter, ...] = ()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go, should an earlier training have ended before: the optimizer takes what requires a gradient."""
        self.hold(pl_module.network, False)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse where it would go wrong, and warn where the backbone is never trained."""
        epochs = pl_module.network.freeze_epochs
        if epochs and world_size() > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise SharedError("model.network.freeze_epochs works on one device and with --trainer.strategy ddp only")
        if epochs and epochs * pl_module.steps_per_epoch >= pl_module.total_steps:
            say(f"warning: the backbone is not trained at all: model.network.freeze_epochs is {epochs}")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Here and not when the epoch starts, since a training may go on in the middle of one."""
        # A backbone that is frozen for good is not held, too: others ask whether it is frozen, in every epoch.
        held = trainer.current_epoch < pl_module.network.freeze_epochs and not pl_module.network.frozen
        if held != pl_module.network.held:
            self.hold(pl_module.network, held)
            if isinstance(trainer.strategy, DDPStrategy):  # it waits for a gradient of all that it was made with
                trainer.strategy.model = pl_module
                trainer.strategy.configure_ddp()

    def hold(self, network: Network, held: bool) -> None:
        """Stop training the backbone, or go on with all of it but what is frozen for good."""
        if held != network.held:
            self._held = tuple(p for p in network.backbone.parameters() if p.requires_grad) if held else self._held
            for parameter in self._held:
                parameter.requires_grad_(not held)
            network.held = held
            network.train(network.training)
