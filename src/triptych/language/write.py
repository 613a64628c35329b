"""Writing a model of transformers to a folder, with nothing on stdout."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


def write_model(model: PreTrainedModel, folder: Path, **options: Any) -> None:
    """What ``save_pretrained`` does, but accelerate imports DeepSpeed there, wherever it is.

    Args:
        model: any model of transformers.
        folder: to write into.
        options: of ``save_pretrained``.
    """
    with deepspeed_aside():
        model.save_pretrained(folder, **options)


@contextmanager
def deepspeed_aside() -> Iterator[None]:
    """Keep stdout, which may belong to a program, while DeepSpeed may be imported.

    It then looks for GPUs, warns where there is none, and keeps what is stdout for its log.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with redirect_stdout(sys.stderr):
        yield
