from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tests.training.tiny import build, one_batch, stage

from triptych.errors import RecipeError
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.training.lora import choose_layers, lora_layers, matches
from triptych.training.parts import begin_stage, cast_frozen, end_stage, trained_names
from triptych.training.tuning import TunedPartSpec

FROZEN = {"connector": False, "new_tokens": False}


def lora(**fields: Any) -> dict[str, Any]:
    return {"mode": "lora", "rank": 4, **fields}


def adapted(model: TriptychForConditionalGeneration) -> dict[str, LoraLayer]:
    return dict(lora_layers(model))


def stir(model: torch.nn.Module) -> None:
    """Make the low-rank products and the lengths of DoRA count."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.2)
        elif ".lora_magnitude" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("q_proj", True),
        ("self_attn", True),
        ("self_attn.q_proj", True),
        ("layers.1", True),
        ("layers.*.self_attn", True),
        ("model.layers.1.self_attn.q_proj", True),
        ("layers.0", False),
        ("attn", False),
        ("layers.self_attn", False),
        ("q_proj.weight", False),
    ],
)
def test_a_scope_is_a_run_of_whole_names(scope: str, expected: bool) -> None:
    assert matches("model.layers.1.self_attn.q_proj", scope) is expected


def test_scopes_have_their_own_rank_alpha_and_dropout(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    targets = {
        "all-linear": {},
        "self_attn": {"rank": 2, "alpha": 6},
        "mlp": {"dropout": 0.25},
        "layers.1.self_attn.q_proj": {"rank": 3},
    }
    spec = stage(train={**FROZEN, "language": lora(alpha=8, dropout=0.5, targets=targets)})
    begin_stage(model, spec)
    found = {
        name.removeprefix("language_model.model."): one for name, one in adapted(model).items()
    }
    assert len(found) == 2 * 7
    for name, layer in found.items():
        rank, scaling = layer.r["default"], layer.scaling["default"]
        dropout = layer.lora_dropout["default"]
        probability = dropout.p if isinstance(dropout, torch.nn.Dropout) else 0.0
        if name == "layers.1.self_attn.q_proj":
            assert (rank, scaling, probability) == (3, 8 / 3, 0.5)
        elif "self_attn" in name:
            assert (rank, scaling, probability) == (2, 3, 0.5)
        else:
            assert (rank, scaling, probability) == (4, 2, 0.25)


@pytest.mark.parametrize("dora", [False, True])
def test_towers_and_language_model_merge_to_equal_logits(tmp_path: Path, dora: bool) -> None:
    model, processor, data = build(tmp_path)
    batch = one_batch(processor, data)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    before = model(**batch).logits
    train = {**FROZEN, "towers": lora(dora=dora, targets=["mlp", "qkv"]), "language": lora()}
    parts = begin_stage(model, stage(train=train))
    assert {part.name for part in parts if part.training} == {"towers", "language"}
    assert all(".lora_" in name for name in trained_names(parts, model))
    assert len([name for name in adapted(model) if name.startswith("towers.")]) == 3
    model.eval()
    torch.testing.assert_close(model(**batch).logits, before, rtol=1e-5, atol=1e-5)
    stir(model)
    changed_logits = model(**batch).logits
    assert not torch.allclose(changed_logits, before, atol=1e-2)
    merged = end_stage(model)
    torch.testing.assert_close(model(**batch).logits, changed_logits, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert after.keys() == plain.keys()
    assert {name for name in after if not torch.equal(after[name], plain[name])} == set(merged)


def test_only_the_matrices_of_a_tower_train_and_all_of_them(tmp_path: Path) -> None:
    model, processor, data = build(tmp_path)
    chosen = stage(train={**FROZEN, "towers": lora(dora=True)})
    assert chosen.train.trains_towers
    begin_stage(model, chosen)
    assert all(tower.training for tower in model.towers)
    stir(model)
    batch = one_batch(processor, data)
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        trains = ".lora_" in name and name.startswith("towers.")
        assert parameter.requires_grad == trains
        assert (parameter.grad is not None and bool(parameter.grad.any())) == trains, name
    begin = {name for name, _ in model.named_parameters() if ".lora_magnitude_vector." in name}
    assert len(begin) == 4


def test_lora_in_bfloat16_trains_float32_matrices(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    spec = stage(train={"towers": lora(dora=True), "language": lora()})
    cast_frozen(model, [spec], torch.bfloat16)
    begin_stage(model, spec)
    layers = list(adapted(model).values())
    assert {layer.get_base_layer().weight.dtype for layer in layers} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    merged = set(end_stage(model))
    assert {p.dtype for n, p in model.named_parameters() if n in merged} == {torch.float32}


def test_a_scope_that_matches_nothing_names_the_nearest(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    wrong = {"language": lora(targets=["self_atn"]), "towers": lora(targets=["blocks.7"])}
    with pytest.raises(
        RecipeError, match=r"train\.language\.targets: 'self_atn'.*nearest.*self_attn"
    ):
        begin_stage(model, stage(train={"language": wrong["language"]}))
    with pytest.raises(RecipeError, match=r"train\.towers\.targets: 'blocks.7' matches no linear"):
        begin_stage(model, stage(train={"towers": wrong["towers"]}))


def test_tied_output_layers_are_left_out_or_refused(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    everything = choose_layers(model.language_model, TunedPartSpec(mode="lora"), "language")
    assert len(everything) == 14
    assert "lm_head" not in everything
    with pytest.raises(
        RecipeError, match=r"'lm_head' is the output layer, whose weights are those"
    ):
        begin_stage(model, stage(train={"language": lora(targets=["q_proj", "lm_head"])}))
