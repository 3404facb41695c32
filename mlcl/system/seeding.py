"""Random numbers as functions of (seed, epoch, index, view): workers, ranks and restarts change nothing."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def global_seed() -> int:
    """The seed that ``seed_everything`` was given (Lightning hands it to child processes in this variable), else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def derive(*numbers: int) -> int:
    """A well-mixed 63-bit seed from a tuple of integers, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw from torch's generator as if freshly seeded with these numbers, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(*numbers))
        yield
