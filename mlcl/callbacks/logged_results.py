"""After a test, what W&B and TensorBoard can show beyond numbers."""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from mlcl.callbacks.logger_views import showing
from mlcl.errors import MlclError
from mlcl.system.console import say


class LoggedResults(Callback):
    """Per-class table, curves, worst errors, embeddings, for the loggers that can show them; once for all processes.

    It reads what :class:`mlcl.callbacks.Results` has written, so it comes after that.

    Args:
        folder: where the results are.
        images: pictures of errors, at most; 0 for none.
        imports: modules whose classes the checkpoint may name.
    """

    def __init__(self, folder: Path, images: int = 24, imports: tuple[str, ...] = ()) -> None:
        self.folder, self.images, self.imports = folder, images, imports

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The test split."""
        self._show(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation split, when validated by itself."""
        if trainer.state.fn == "validate":
            self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        able = [(logger, show) for logger in trainer.loggers if (show := showing(logger)) is not None]
        if not able:
            return
        from mlcl.report import findings  # with matplotlib and scikit-learn, which most runs do without

        root = getattr(getattr(trainer, "datamodule", None), "root", None)
        try:
            with torch.inference_mode(False):  # Lightning's, in which no network can be made that computes
                found = findings.gather(self.folder, self.images, str(root) if root else None, self.imports)
            for logger, show in able:
                show(logger.experiment, found)  # type: ignore[attr-defined]
        except Exception as error:  # of several libraries; hours of training, whose results are written, do not fail
            say(f"not shown in the logger: {error if isinstance(error, MlclError) else repr(error)}")
        else:
            for note in found.notes:
                say(f"not shown in the logger: {note}")
