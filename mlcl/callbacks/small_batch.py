"""A batch too small for a BatchNorm, in a line that says which one and what helps."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from mlcl.errors import MlclError


@contextmanager
def explained(module: nn.Module, image: Tensor) -> Iterator[None]:
    """Around a training step: torch's own error names neither the layer nor the way out.

    Args:
        module: whose BatchNorms are meant.
        image: (B, 3, H, W) or (B, V, 3, H, W), what the step begins with.

    Raises:
        MlclError: where a BatchNorm has one value per channel; any other error passes.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:  # the second: while it is compiled
        if "more than 1 value per channel" not in str(error):
            raise
        names = {id(part): name for name, part in module.named_modules()}
        frames = [id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        layer = next((names[owner] for owner in reversed(frames) if names.get(owner)), "a BatchNorm")
        height, width = image.shape[-2:]
        raise MlclError(
            f"{layer} normalises over a batch, but here it has one value per channel: one image of {width} x {height} "
            "pixels, a feature map of 1 x 1; give two images or more (--data.batch_size, --data.views), larger ones "
            "(--data.image_size), or fixed statistics (--model.network.freeze_batch_norm true)"
        ) from error
