"""A model as what a run trained, on top of the pretrained weights that its recipe names.

Such a folder is small: a connector, new tokens and LoRA matrices. It holds what every model folder
holds, but for the weights:

- ``parts.json``: the ModelSpec, and a name for the pretrained weights that the parts were made on;
- ``trained.safetensors``: weights that trained, by their names in the model;
- ``adapter/``: the LoRA matrices, as peft saves them, where there are any.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from triptych.errors import CheckpointError
from triptych.model.fingerprint import checksum
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.spec import ModelSpec
from triptych.spec import validate

RECORD, WEIGHTS, ADAPTER = "parts.json", "trained.safetensors", "adapter"


def is_parts(folder: str | Path) -> bool:
    """Whether a folder holds the parts of a model."""
    return (Path(folder) / RECORD).is_file()


def read_base(folder: Path) -> tuple[ModelSpec, int]:
    """The model that the parts in ``folder`` belong to, and the seed of what is random in it."""
    record = _read(folder)
    return validate(ModelSpec, record["model"], str(folder / RECORD)), record["seed"]


def write_parts(
    folder: Path,
    spec: ModelSpec,
    seed: int,
    model: TriptychForConditionalGeneration,
    trained: Iterable[str],
    dtype: torch.dtype,
) -> None:
    """Write what is needed beside the processor and the adapter.

    Args:
        folder: an existing folder.
        spec: the model, with the sources of its pretrained weights.
        seed: of the weights that are neither pretrained nor trained.
        model: with what trained, but without LoRA matrices.
        trained: names of the weights that trained.
        dtype: precision of the weights written.
    """
    names, weights = set(trained), model.state_dict()
    kept = {name: weights[name].to(dtype).contiguous() for name in sorted(names)}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})
    base = name_base(model, names)
    record = {"model": spec.model_dump(mode="json"), "seed": seed, "base": base}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


@torch.no_grad()
def put_parts(
    folder: Path, model: TriptychForConditionalGeneration
) -> TriptychForConditionalGeneration:
    """Put the parts in ``folder`` onto a model with pretrained weights, and merge the adapter.

    Raises:
        CheckpointError: the pretrained weights are not those that the parts were made on, or the
            parts do not fit.
    """
    trained = load_file(folder / WEIGHTS)
    if name_base(model, trained.keys()) != _read(folder)["base"]:
        raise CheckpointError(
            f"{folder}: its parts were trained on other pretrained weights than those found here; "
            "install the versions that it was made with, or train it anew with its recipe"
        )
    own = model.state_dict()
    for name, value in trained.items():
        if name not in own or own[name].shape != value.shape:
            raise CheckpointError(f"{folder / WEIGHTS}: '{name}' does not fit its model")
        own[name].copy_(value)
    if not (folder / ADAPTER).is_dir():
        return model
    from peft import PeftModel  # brings torch's compiler: seconds

    adapted = PeftModel.from_pretrained(model, str(folder / ADAPTER))
    merged: TriptychForConditionalGeneration = adapted.merge_and_unload()
    return merged


def _read(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / RECORD}: cannot be read: {error}") from None
    if not isinstance(record, dict) or record.keys() != {"model", "seed", "base"}:
        found = ", ".join(sorted(record)) if isinstance(record, dict) else "no object"
        raise CheckpointError(f"{folder / RECORD}: has {found}; expected model, seed and base")
    return record


def name_base(model: TriptychForConditionalGeneration, trained: Iterable[str]) -> str:
    """A name (hexadecimal SHA-256) for all weights of ``model`` but those that trained."""
    digest, weights = hashlib.sha256(), model.state_dict()
    left_out = {weights[name].data_ptr() for name in trained if name in weights}
    for name, value in sorted(weights.items()):
        if value.data_ptr() not in left_out:  # tied weights have two names
            digest.update(f"{name} {tuple(value.shape)} {checksum(value)}".encode())
    return digest.hexdigest()
