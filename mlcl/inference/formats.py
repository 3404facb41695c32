"""Writing and reading the two kinds of exported files, ONNX and torch.export."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mlcl.errors import MlclError
from mlcl.inference.fold import fold_batch_norms


@contextmanager
def exporting() -> Iterator[None]:
    """Silence what the exporters print, and turn their errors into one line."""
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        except (ImportError, OSError):
            raise
        except Exception as error:  # of a dozen kinds
            reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:300]
            raise MlclError(f"the network cannot be exported: {type(error).__name__}: {reason}") from error
        finally:
            logging.disable(logging.NOTSET)


def make_program(network: nn.Module, example: Tensor) -> ExportedProgram:
    """The graph of a network in eval mode, for batches of any size of its input ``pixels``.

    The example is (2, 3, S, S) uint8: the exporter would take a batch size of one as fixed.
    """
    return torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: Dim("batch", min=1, max=65_535)}})


def _write_onnx(program: ExportedProgram, metadata: dict[str, Any], path: Path) -> None:
    import onnx

    exported = torch.onnx.export(
        program,
        input_names=["pixels"],
        output_names=["probabilities"],
        dynamic_shapes={"pixels": {0: "batch"}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(proto, text)
    onnx.save(proto, str(path))


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _write_torch(program: ExportedProgram, metadata: dict[str, Any], path: Path) -> None:
    fold_batch_norms(program)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"mlcl.json": json.dumps(metadata)})


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as file:
        return torch.export.load(file).module()


FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "torch_export": (_write_torch, _read_torch),
}
