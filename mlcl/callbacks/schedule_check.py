"""A run is continued with the schedule that it began with."""

from typing import Any

from lightning import Callback

from mlcl.callbacks import users


class ScheduleCheck(Callback):
    """Refuses to continue with a learning-rate schedule of another length, and callbacks that would change it."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before anything is laid out."""
        if stage == "fit":
            users.refuse(trainer.callbacks)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Compare with the number of steps in the checkpoint."""
        pl_module.schedule.check_length((pl_module.stored or {}).get("planned_steps"), pl_module.total_steps)
