from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.training.tiny import build, data_spec, model_spec, one_batch, stage

from triptych.errors import RecipeError
from triptych.fusion import CrossFusion
from triptych.model.build import initialise
from triptych.towers import SmallTower
from triptych.training.parts import (
    begin_stage,
    cast_frozen,
    end_stage,
    parameter_groups,
    parameter_table,
    ready_for_run,
    trained_names,
)
from triptych.training.run import training_texts
from triptych.training.stages import RunSpec


def test_only_the_named_parts_train(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    begin_stage(model, stage(train={"connector": False, "new_tokens": False, "language": "full"}))
    training = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert training == {"language_model"}
    begin_stage(model, stage(train={"towers": True, "new_tokens": False}))
    training = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert training == {"towers", "connector"}


def test_gated_layers_are_a_part_of_their_own() -> None:
    spec = model_spec().model_copy(update={"fusion": CrossFusion(every=1)})
    model, _ = initialise(spec, texts=["a text"])
    assert model.cross_layers is not None
    parts = begin_stage(model, stage(train={"connector": False, "new_tokens": False}))
    assert [part.name for part in parts] == [
        "towers", "connector", "fusion", "new_tokens", "language",
    ]  # fmt: skip
    training = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert training == {"cross_layers"}
    begin_stage(model, stage(train={"fusion": False}))
    assert not any(p.requires_grad for p in model.cross_layers.parameters())


def test_frozen_towers_run_in_evaluation_mode(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    begin_stage(model, stage())
    assert not any(module.training for module in model.towers.modules())
    assert model.language_model.training
    begin_stage(model, stage(train={"towers": True}))
    assert all(module.training for module in model.towers.modules())


def test_a_stage_that_trains_nothing_is_an_error(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    with pytest.raises(RecipeError, match="'empty' trains nothing"):
        begin_stage(model, stage("empty", train={"connector": False, "new_tokens": False}))


def test_groups_have_their_own_rates_and_only_matrices_decay(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    spec = stage(learning_rate=1e-3, train={"towers": 1e-5, "language": "full"})
    groups = parameter_groups(begin_stage(model, spec), weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"towers": 1e-5, "connector": 1e-3, "new_tokens": 1e-3, "language": 1e-3}
    for group in optimizer.param_groups:
        matrices = {parameter.ndim > 1 for parameter in group["params"]}
        assert matrices == {group["weight_decay"] > 0}
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_each_tower_can_have_its_own_rate(tmp_path: Path) -> None:
    small = {"size": 16, "patch": 8, "hidden": 16, "depth": 1, "heads": 2}
    towers = tuple(SmallTower(**{**small, "hidden": hidden}) for hidden in (16, 8))
    data = data_spec(tmp_path)
    spec = model_spec().model_copy(update={"towers": towers})
    model, _ = initialise(spec, texts=training_texts(data))
    train = {"towers": [False, 3e-6], "connector": 2e-4, "new_tokens": False}
    chosen = stage(learning_rate=1e-3, train=train)
    assert chosen.train.trains_towers
    groups = parameter_groups(begin_stage(model, chosen), weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"towers.1": 3e-6, "connector": 2e-4}
    tuned = {id(p) for g in groups if g["part"] == "towers.1" for p in g["params"]}
    assert tuned == {id(p) for p in model.towers[1].parameters()}
    assert [tower.training for tower in model.towers] == [False, True]
    both = begin_stage(model, stage(train={"towers": True}))
    assert [part.name for part in both][:2] == ["towers.0", "towers.1"]
    assert all(part.mode == "full" for part in both[:2])
    with pytest.raises(RecipeError, match=r"train\.towers has 3 entries for 2 tower\(s\)"):
        begin_stage(model, stage(train={"towers": [True] * 3}))


def test_lora_merges_back_to_a_plain_model_with_equal_logits(tmp_path: Path) -> None:
    model, processor, data = build(tmp_path)
    batch = one_batch(processor, data)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    spec = stage(train={"connector": False, "new_tokens": False, "language": "lora"})
    parts = begin_stage(model, spec)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        if ".lora_B." in name:
            parameter.data.normal_(std=0.2)
    assert all(".lora_" in name for name in trained_names(parts, model))
    model.eval()
    adapted = model(**batch).logits
    merged = end_stage(model)
    torch.testing.assert_close(model(**batch).logits, adapted, rtol=1e-5, atol=1e-5)
    after = model.state_dict()
    assert after.keys() == plain.keys()
    changed = {name for name in after if not torch.equal(after[name], plain[name])}
    assert changed == set(merged)
    assert len(merged) == 2 * 7


def test_lora_can_be_used_in_two_stages(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    for _ in range(2):
        begin_stage(model, stage(train={"language": "lora"}))
        end_stage(model)
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_lora_target_must_match(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    lora = {"mode": "lora", "targets": ["q_proj", "query"]}
    with pytest.raises(RecipeError, match=r"'query' matches no linear layer.*q_proj"):
        begin_stage(model, stage(train={"language": lora}))
    begin_stage(model, stage(train={"language": {"mode": "lora", "targets": ["q_proj"]}}))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2
    assert all(name.endswith("q_proj") for name in adapted)


def test_cast_frozen_spares_what_any_stage_trains(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    stages = [stage(train={"language": "lora"}), stage(train={"new_tokens": False})]
    cast_frozen(model, stages, torch.bfloat16)
    assert {p.dtype for p in model.towers.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.connector.parameters()} == {torch.float32}
    begin_stage(model, stages[0])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_cast_frozen_leaves_the_positions_exact(tmp_path: Path) -> None:
    """Training in bf16 turns queries and keys as the saved model does."""
    model, _, _ = build(tmp_path)
    name = "language_model.model.rotary_emb.inv_freq"
    before = dict(model.named_buffers())[name].clone()
    assert not torch.equal(before, before.bfloat16().float())
    cast_frozen(model, [stage()], torch.bfloat16)
    assert {p.dtype for p in model.language_model.parameters()} == {torch.bfloat16}
    after = dict(model.named_buffers())[name]
    assert after.dtype == torch.float32
    assert torch.equal(after, before)


def test_the_table_names_every_part(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    spec = stage(learning_rate=1e-3, train={"language": {"mode": "lora", "learning_rate": 2e-4}})
    console = Console(width=100)
    with console.capture() as capture:
        console.print(parameter_table(spec, begin_stage(model, spec), 7))
    text = capture.get()
    assert "7 steps" in text
    for word in ("towers", "frozen", "connector", "0.001", "lora", "0.0002"):
        assert word in text


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_embeddings_can_train_without_the_language_model(tmp_path: Path, mode: str) -> None:
    model, processor, data = build(tmp_path)
    train = {"language": mode, "embeddings": 1e-4, "new_tokens": False}
    spec = stage(learning_rate=1e-3, train=train)
    parts = begin_stage(model, spec)
    table = model.get_input_embeddings().weight
    assert table.requires_grad
    others = [
        name
        for name, p in model.language_model.named_parameters()
        if p.requires_grad and p is not table and ".lora_" not in name
    ]
    assert others == []
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in model.parameters())
    groups = parameter_groups(parts, weight_decay=0.0)
    torch.optim.AdamW(groups)
    (group,) = [group for group in groups if group["part"] == "embeddings"]
    assert [p is table for p in group["params"]] == [True]
    assert group["peak"] == 1e-4
    model(**one_batch(processor, data)).loss.backward()
    assert table.grad is not None
    assert bool(table.grad.any())


def test_embeddings_of_a_language_model_that_trains_are_its_own(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    parts = begin_stage(model, stage(train={"language": "full", "embeddings": True}))
    assert "embeddings" not in [part.name for part in parts]


def test_cast_frozen_keeps_embeddings_that_train_and_rotary_frequencies(tmp_path: Path) -> None:
    model, _, _ = build(tmp_path)
    stages = [stage(), stage(train={"embeddings": True})]
    before = model.get_input_embeddings().weight.clone()
    frequencies = {n: b.clone() for n, b in model.named_buffers() if n.endswith("inv_freq")}
    cast_frozen(model, stages, torch.bfloat16)
    layers = model.language_model.get_decoder().layers
    assert {p.dtype for p in layers.parameters()} == {torch.bfloat16}
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert frequencies
    for name, buffer in model.named_buffers():
        if name in frequencies:
            assert torch.equal(buffer, frequencies[name])


@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_computes_activations_again_where_it_says_so(recompute: bool, tmp_path: Path) -> None:
    """Also in a frozen language model; it begins again, and stops where enough is known."""
    model, processor, data = build(tmp_path)
    run = RunSpec(folder=tmp_path, gradient_checkpointing=recompute)
    ready_for_run(model, run, (stage(),))
    begin_stage(model, stage())
    passes = []
    layer = model.language_model.get_submodule("model.layers.1.mlp")
    layer.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    model(**one_batch(processor, data)).loss.backward()
    assert len(passes) == 1 + recompute
    assert all(p.grad is not None for p in model.connector.parameters())
