"""The default logger: a CSV file in the run's folder, which a resumed run continues."""

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from mlcl.system.console import is_first


class CSVLog(CSVLogger):
    """Lightning's CSV logger writing ``<folder>/metrics.csv``; it keeps the lines that Lightning 2.6.6 deletes."""

    def __init__(self, folder: str) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=50)

    @property
    def experiment(self) -> Any:
        """The writer of the file, made on first use (a no-op away from rank 0)."""
        if self._experiment is None and is_first():
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            before = Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)
            lines = before.read_bytes() if before.is_file() else None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Experiment logs directory")
                self._experiment = ExperimentWriter(log_dir=self.log_dir)
            if lines:
                before.write_bytes(lines)
                self._experiment.metrics_keys = next(csv.reader(lines.decode().splitlines()))
        return super().experiment

    @property
    def log_dir(self) -> str:
        """The run's folder itself."""
        return self.save_dir
