"""Norms of the gradients: which part learns, and which one explodes."""

from lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

PARTS = {"backbone": "network.backbone.", "head": "network.head.", "embedding_loss": "embedding_loss."}


class GradientNorms(Callback):
    """Logs ``gradient/<part>``, a part's L2 norm before clipping, in the steps that are logged."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """One norm for each part that has parameters."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (trainer.global_step + 1) % every:
            return
        for part, prefix in PARTS.items():
            # In float32: a sum of squares in half precision overflows.
            gradients = [
                parameter.grad.float()
                for name, parameter in pl_module.named_parameters()
                if name.startswith(prefix) and parameter.grad is not None
            ]
            if gradients:
                pl_module.log(f"gradient/{part}", get_total_norm(gradients))
