"""After a test, show tables, curves, pictures and embeddings in W&B and TensorBoard."""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from mlcl.callbacks.logger_views import showing
from mlcl.errors import MlclError
from mlcl.system.console import say


class LoggedResults(Callback):
    """Log the per-class table, curves, worst errors and embeddings to the loggers that can show them, on rank 0.

    It reads the files that :class:`mlcl.callbacks.Results` writes, so it comes after that callback.

    Args:
        folder: with the results.
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
        able = [(logger, show) for logger in trainer.loggers if (show := showing(logger)) is not None]
        if not able or not trainer.is_global_zero:
            return
        from mlcl.report import findings, views  # with matplotlib and scikit-learn, which most runs do without

        root = getattr(getattr(trainer, "datamodule", None), "root", None)
        try:
            with torch.inference_mode(
                False
            ):  # a network made in Lightning's inference mode could not be used outside it
                found = findings.gather(self.folder, str(root) if root else None, imports=self.imports)
                shown = views.views(found, self.images)
            for logger, show in able:
                show(logger.experiment, shown)  # type: ignore[attr-defined]
        except Exception as error:  # of several libraries; the run, whose results are written, does not fail
            say(f"not shown in the logger: {error if isinstance(error, MlclError) else repr(error)}")
        else:
            for note in found.evidence.notes:
                say(f"not shown in the logger: {note}")
