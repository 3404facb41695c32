"""A run is continued with the schedule that it began with."""

from typing import Any

from lightning import Callback


class ScheduleCheck(Callback):
    """Refuses to continue with a learning-rate schedule of another length, before the first step."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Compare with the number of steps in the checkpoint."""
        pl_module.schedule.check_length((pl_module.stored or {}).get("planned_steps"), pl_module.total_steps)
