"""Language models in 4 and 8 bits: what is refused, and what the merged model computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import build, model_spec, one_batch, recipe, stage
from torch import nn

from triptych.errors import CheckpointError, RecipeError
from triptych.export import ExportSpec, export_model
from triptych.language.quantize import (
    BnbQuantize,
    check_quantize,
    packed_bytes,
    quantizable,
    quantize,
)
from triptych.model.spec import ModelSpec
from triptych.recipe import save_recipe
from triptych.training.lora import add_lora, lora_layers, merge_lora
from triptych.training.quantized import check_quantized
from triptych.training.run import train
from triptych.training.stages import ParallelSpec, RunSpec
from triptych.training.tuning import TunedPartSpec


def quantized_spec(**fields: Any) -> ModelSpec:
    spec = model_spec()
    language = spec.language.model_copy(update={"quantize": BnbQuantize(**fields)})
    return spec.model_copy(update={"language": language})


def test_a_cpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    made = recipe(tmp_path, (stage(),), model=quantized_spec(bits=8), run={"precision": "bf16"})
    if torch.cuda.is_available():
        with pytest.raises(RecipeError, match="8-bit layers of bitsandbytes are for a CUDA GPU"):
            check_quantize(BnbQuantize(bits=8), torch.device("cpu"))
        return
    with pytest.raises(RecipeError, match=r"8-bit layers of bitsandbytes.*CUDA GPU.*'cpu'"):
        train(made.model, made.data, made.stages, made.parallel, made.run)
    assert not made.run.folder.exists()


@pytest.mark.parametrize(
    ("modes", "run", "parallel", "problem"),
    [
        (["full"], {}, {}, "stage 'one' trains the whole language model"),
        (["lora", "lora"], {}, {}, "stage 'one' adapts the language model before the last"),
        (["lora"], {"precision": "fp32"}, {}, "run.precision is 'fp32'"),
        (["frozen", "lora"], {}, {"engine": "ddp"}, None),
        (["frozen"], {}, {"engine": "fsdp2"}, "engine 'fsdp2' cannot spread"),
        (["frozen"], {}, {}, None),
    ],
)
def test_what_quantised_weights_cannot_do_is_refused(
    tmp_path: Path,
    modes: list[str],
    run: dict[str, Any],
    parallel: dict[str, Any],
    problem: str | None,
) -> None:
    stages = [stage(train={"language": mode}) for mode in modes]
    settings = RunSpec(**{"folder": tmp_path, "precision": "bf16", **run})
    arguments = (stages, ParallelSpec(**parallel), settings)
    check_quantized(model_spec(), *arguments)
    if problem is None:
        check_quantized(quantized_spec(), *arguments)
        return
    with pytest.raises(RecipeError, match=problem):
        check_quantized(quantized_spec(), *arguments)


def test_dora_takes_4_bits(tmp_path: Path) -> None:
    stages = [stage(train={"language": {"mode": "lora", "dora": True}})]
    arguments = (stages, ParallelSpec(), RunSpec(folder=tmp_path, precision="bf16"))
    check_quantized(quantized_spec(bits=4), *arguments)
    with pytest.raises(RecipeError, match="dora over 8-bit weights"):
        check_quantized(quantized_spec(bits=8), *arguments)


def scale_bytes(weight: Any) -> int:
    """Bytes of the scales and tables that bitsandbytes has beside its values."""
    if weight.dtype == torch.int8:
        return 4 * len(weight)
    state = weight.quant_state.as_dict(packed=False).values()
    nested = 4 * weight.quant_state.nested
    return nested + sum(one.nbytes for one in state if isinstance(one, torch.Tensor))


@pytest.mark.parametrize(("bits", "dora"), [(4, False), (4, True), (8, False)])
def test_merging_keeps_what_was_trained(tmp_path: Path, bits: int, dora: bool) -> None:
    """On a CPU, which bitsandbytes can use as well: the layers are those of a GPU."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model, processor, data = build(tmp_path)
    batch = one_batch(processor, data)
    language = model.language_model
    head, names = language.get_output_embeddings(), set(model.state_dict())
    plain = model.eval()(**batch).logits.detach()
    spec = BnbQuantize(bits=bits, double=not dora)
    packed = packed_bytes(spec, dict(quantizable(language))["model.layers.0.mlp.up_proj"])
    quantize(language, spec, torch.device("cpu"))
    assert language.get_output_embeddings() is head
    assert not language.get_submodule("model.layers.0.mlp.up_proj").weight.is_floating_point()
    held = language.get_submodule("model.layers.0.mlp.up_proj").weight
    assert packed == held.nbytes + scale_bytes(held)
    rounded = model(**batch).logits.detach()
    assert 1e-5 < (rounded - plain).abs()[torch.isfinite(plain)].max() < 0.2
    add_lora(language, TunedPartSpec(mode="lora", rank=4, dora=dora))
    assert len(list(lora_layers(language))) == 14
    trained = [p for p in model.language_model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    torch.manual_seed(0)
    for name, parameter in language.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.1)
    loss = model(**batch).loss
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained)
    adapted = model.eval()(**batch).logits.detach()
    merge_lora(model)
    merged = model(**batch).logits.detach()
    kept = torch.isfinite(plain)
    apart = (merged - adapted)[kept].abs().max()
    assert apart < 0.03  # a quantised layer computes in bfloat16 or int8, a merged one in float32
    assert apart < 0.3 * (adapted - rounded)[kept].abs().max()
    assert set(model.state_dict()) == names
    assert all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))


def test_a_checkpoint_of_a_quantised_run_is_not_exported(tmp_path: Path) -> None:
    made = recipe(tmp_path, (stage(steps=1, train={"language": "lora"}),))
    train(made.model, made.data, made.stages, made.parallel, made.run)
    run = made.run.model_copy(update={"precision": "bf16"})
    quantised = made.model_copy(update={"model": quantized_spec(), "run": run})
    save_recipe(quantised, made.run.folder / "recipe.yaml")
    with pytest.raises(CheckpointError, match="quantised while it trained"):
        export_model(made.run.folder, tmp_path / "out", ExportSpec(checkpoint="last"))
    export_model(made.run.folder, tmp_path / "out", ExportSpec())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_run_trains_a_quantised_model(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    stages = (stage("align", steps=2), stage("tune", steps=3, train={"language": "lora"}))
    made = recipe(tmp_path, stages, model=quantized_spec(bits=bits), run={"precision": "bf16"})
    save_recipe(made, made.run.folder / "recipe.yaml")
    train(made.model, made.data, made.stages, made.parallel, made.run)
    assert export_model(made.run.folder, tmp_path / "out", ExportSpec()).check.tokens
