"""Write a model in the form that was asked for, load it again, and compare."""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import transformers
from peft import PeftModel
from pydantic import Field
from transformers import AutoModelForImageTextToText, AutoProcessor

import triptych
from triptych.errors import CheckpointError, RecipeError
from triptych.export.adapter import Adapter, take_adapter
from triptych.export.check import Answer, Comparison, Messages, compare, make_prompts, observe
from triptych.export.llava import convert, find_obstacles, rename
from triptych.export.llava_processor import convert_processor
from triptych.export.parts import base_of
from triptych.export.remote import add_remote_code
from triptych.export.source import Source, open_source
from triptych.language.write import write_model
from triptych.model.build import load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.parts import ADAPTER, is_parts, write_parts
from triptych.spec import Spec
from triptych.training.files import TEMPORARY, whole_folder
from triptych.training.lora import MATRIX, is_matrix, lora_layers, merge_lora, plain_name

Form: TypeAlias = Literal["auto", "llava", "triptych", "parts"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
RECORD = "export.json"


class ExportSpec(Spec):
    """What is exported, and how."""

    format: Form = "auto"
    """`llava`: LLaVA or LLaVA-NeXT of transformers; `triptych`: remote code that imports this
    package; `auto`: llava where the composition is one, otherwise triptych; `parts`: only what the
    run trained, to be put onto the pretrained weights of its recipe, by this package alone."""

    checkpoint: str | None = None
    """A checkpoint of the run: last, best, or a number of steps; the trained model when omitted."""

    adapter: bool = False
    """Leave the LoRA matrices of the checkpoint's stage apart, in a folder for peft."""

    dtype: Precision | None = None
    """Precision of the weights written; that of the model when omitted."""

    shard: str = Field("5GB", pattern=r"^\d+(KB|MB|GB)$")
    """Largest size of one file of weights, such as 500MB."""


@dataclass(frozen=True)
class Report:
    """What was exported.

    Attributes:
        source: where the model comes from.
        form: `llava`, `llava_next`, `triptych` or `parts`.
        obstacles: why it is not a LLaVA.
        dtype: of the weights written.
        adapted: layers whose matrices were left apart.
        check: of the loaded export against the model.
    """

    source: str
    form: str
    obstacles: tuple[str, ...]
    dtype: str
    adapted: int
    check: Comparison


def export_model(path: Path, out: Path, spec: ExportSpec) -> Report:
    """Export a model, load what was written, and compare its answers with the model's.

    The folder appears whole, after the comparison, or not at all.

    Args:
        path: a run folder or a model folder.
        out: the folder to write; it must not exist or be empty.
        spec: what is exported, and how.

    Raises:
        CheckpointError: there is no such model, the folder is taken, or the export differs.
        RecipeError: the composition cannot take the form asked for.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: already there and not empty; choose another folder")
    parts = spec.format == "parts"
    apart = "--format parts" if parts else "--adapter" if spec.adapter else None
    source = open_source(path, spec.checkpoint, apart=apart)
    model, obstacles = source.model, find_obstacles(source.model)
    _check(source, spec, obstacles)
    as_llava = not (parts or spec.format == "triptych" or obstacles)
    if not (spec.adapter or parts):
        merge_lora(model)
    dtype = _round(model, spec.dtype, source.trained if parts else None)
    context = model.config.get_text_config().to_dict().get("max_position_embeddings")
    prompts = make_prompts(source.processor, model.tile_size, context)
    expected = observe(model.eval(), source.processor, prompts)
    adapter = take_adapter(model)
    with _removed_on_failure(out) as temporary:
        form = _write(source, adapter, temporary, spec, dtype, as_llava=as_llava)
        name, adapted = source.name, len(adapter.layers)
        del model, source, adapter
        found = _observe_written(temporary, prompts, as_llava=as_llava)
        check = compare(expected, found, str(out))
        report = Report(name, form, tuple(obstacles), str(dtype)[6:], adapted, check)
        (temporary / RECORD).write_text(_record(report), encoding="utf-8")
    return report


def _check(source: Source, spec: ExportSpec, obstacles: Sequence[str]) -> None:
    if spec.format == "parts":
        base_of(source)
    elif spec.adapter and not any(lora_layers(source.model)):
        raise RecipeError(
            f"{source.name}: the stage of this checkpoint trains no LoRA matrices, so there is no "
            "adapter to leave apart; export without --adapter"
        )
    if spec.format == "llava" and obstacles:
        raise RecipeError(
            f"{source.name}: this composition is no LLaVA: {'; '.join(obstacles)}. Export it with "
            "--format triptych"
        )


def _round(
    model: TriptychForConditionalGeneration, wanted: str | None, parts: Collection[str] | None
) -> torch.dtype:
    """Round the weights to the precision they are written in, and compute in float32.

    What is compared is then the export alone. Where only ``parts`` are written (plain names), they
    and the LoRA matrices are rounded, and nothing else; otherwise all but LoRA.
    """
    dtype = model.dtype if wanted is None else _DTYPES[wanted]
    for name, value in model.state_dict().items():
        if parts is None:
            written = MATRIX not in name
        else:
            written = plain_name(name) in parts or is_matrix(name)
        if value.is_floating_point() and written:
            value.copy_(value.to(dtype))
    model.float()
    return dtype


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _write(
    source: Source,
    adapter: Adapter,
    folder: Path,
    spec: ExportSpec,
    dtype: torch.dtype,
    *,
    as_llava: bool,
) -> str:
    """Write model, processor and adapter; returns the form."""
    ours, processor = source.model, source.processor
    if spec.format == "parts":
        write_parts(folder, *base_of(source), ours, source.trained, dtype)
        processor.save_pretrained(folder)
        form = "parts"
    elif as_llava:
        theirs = convert(ours).to(dtype)
        write_model(theirs, folder, max_shard_size=spec.shard)
        convert_processor(ours, processor).save_pretrained(folder)
        form = str(theirs.config.model_type)
    else:
        write_model(ours.to(dtype), folder, max_shard_size=spec.shard)
        processor.save_pretrained(folder)
        add_remote_code(folder)
        form = "triptych"
    if adapter.layers:
        precision = dtype if spec.format == "parts" else torch.float32
        names = partial(rename, ours) if as_llava else str
        adapter.write(folder / ADAPTER, names, precision)
    return form


def _observe_written(folder: Path, prompts: Sequence[Messages], *, as_llava: bool) -> list[Answer]:
    """Load what was written as its users do, in float32, and let it answer.

    Raises:
        CheckpointError: weights are missing.
    """
    model: Any
    if as_llava:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        problems = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
        if problems:
            raise CheckpointError(f"the exported weights do not fit LLaVA, first '{problems[0]}'")
        processor = AutoProcessor.from_pretrained(folder)
    else:
        model, processor = load_pretrained(folder)
        model.float()
    if (folder / ADAPTER).is_dir() and not is_parts(folder):
        model = PeftModel.from_pretrained(model, str(folder / ADAPTER))
    return observe(model.eval(), processor, prompts)


@contextmanager
def _removed_on_failure(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``out``, or vanishes."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_folder(out) as temporary:
            yield temporary
    finally:
        shutil.rmtree(out.with_name(TEMPORARY + out.name), ignore_errors=True)


def _record(report: Report) -> str:
    versions = {"triptych": triptych.__version__, "transformers": transformers.__version__}
    return json.dumps({**asdict(report), "versions": versions}, indent=1) + "\n"
