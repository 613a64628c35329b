from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.tiny import answer, picture, tiny_model, tiny_spec, turn
from tests.oracles import experts as oracle
from tests.training.preferences import with_pairs
from tests.training.test_resume import run_recipe
from tests.training.tiny import entries, recipe, stage
from torch import Tensor

from triptych.data.spec import BatchSpec
from triptych.errors import RecipeError
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.training.objectives.base import Totals
from triptych.training.objectives.experts import Experts, find_experts

FAMILIES = ["mixtral", "qwen3_moe"]


def batch_of(processor: TriptychProcessor, *counts: int) -> dict[str, Tensor]:
    """Conversations over so many images each, padded to the longest."""
    prompts, tiles = [], []
    for count in counts:
        images = [picture(seed) for seed in range(count)]
        talk = [turn("is there a circle? " * (1 + count), *images), answer("yes")]
        prompts.append(processor.encode(talk, [image.size for image in images]))
        tiles.append([processor.tiles(image) for image in images])
    return processor.collate(prompts, tiles, labels=True)


def experts_of(model: TriptychForConditionalGeneration, weight: float | None = None) -> Experts:
    found = find_experts(model.config.get_text_config(), weight, trains=True)
    assert found is not None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_router_loss_leaves_padding_out(family: str) -> None:
    model, processor = tiny_model(family)
    experts, batch = experts_of(model, 1.0), batch_of(processor, 0, 2)
    assert not bool(batch["attention_mask"].all())
    output = model(**batch, output_router_logits=True)
    logits = [one.reshape(-1, experts.count).tolist() for one in output.router_logits]
    mask = batch["attention_mask"]
    totals = Totals(1, int(mask.sum()))
    found = experts.loss(output, mask, totals)
    expected = oracle.balance(logits, mask.flatten().tolist(), experts.chosen)
    assert float(found.value.detach()) == pytest.approx(expected, rel=1e-5)
    everything = oracle.balance(logits, [1] * mask.numel(), experts.chosen)
    assert abs(everything - expected) > 1e-4  # so that padding would have been noticed
    used = found.sums[1:].reshape(experts.layers, experts.count)
    assert used.sum(1).tolist() == [experts.chosen * int(mask.sum())] * experts.layers


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_loss_of_transformers(family: str) -> None:
    """What the language model of transformers adds to its own loss, on text alone."""
    model, processor = tiny_model(family)
    batch = batch_of(processor, 0, 0, 0)
    batch["input_ids"] = torch.randint_like(batch["input_ids"], 5, 200)
    batch["attention_mask"][0, 7:] = 0
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    theirs = model.language_model(**inputs, labels=labels, output_router_logits=True)
    ours = model(**inputs, labels=labels, output_router_logits=True)
    experts = experts_of(model)
    assert experts.weight == model.config.get_text_config().router_aux_loss_coef > 0
    routed = experts.loss(
        ours, inputs["attention_mask"], Totals(1, int(inputs["attention_mask"].sum()))
    )
    torch.testing.assert_close(routed.value, experts.weight * theirs.aux_loss)
    assert float(routed.value) > 0


def test_gradients_reach_the_router_also_when_activations_are_recomputed() -> None:
    model, processor = tiny_model("mixtral")
    model.train()
    experts, batch = experts_of(model, 1.0), batch_of(processor, 1, 2)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        output = model(**batch, output_router_logits=True)
        experts.loss(output, batch["attention_mask"], Totals(1, 100)).value.backward()
        gate = [p.grad for n, p in model.named_parameters() if n.endswith("mlp.gate.weight")]
        assert len(gate) == experts.layers
        gradients.append([one.clone() for one in gate if one is not None])
    for plain, again in zip(*gradients, strict=True):
        assert float(plain.abs().sum()) > 0
        torch.testing.assert_close(again, plain)


def test_micro_batches_count_by_their_tokens() -> None:
    model, processor = tiny_model("mixtral")
    experts = experts_of(model, 0.5)
    batches = [batch_of(processor, 0), batch_of(processor, 2)]
    tokens = [int(one["attention_mask"].sum()) for one in batches]
    values = []
    for own in (False, True):
        totals = [Totals(1, size if own else sum(tokens)) for size in tokens]
        outputs = [model(**one, output_router_logits=True) for one in batches]
        values.append(
            [
                experts.loss(o, b["attention_mask"], t).value.item()
                for o, b, t in zip(outputs, batches, totals, strict=True)
            ]
        )
    shared, alone = values
    mean = sum(one * size for one, size in zip(alone, tokens, strict=True)) / sum(tokens)
    assert sum(shared) == pytest.approx(mean)


def test_which_models_have_experts() -> None:
    dense, _ = tiny_model("llama")
    config = dense.config.get_text_config()
    assert find_experts(config, None, trains=True) is None
    with pytest.raises(RecipeError, match="has no experts"):
        find_experts(config, 0.01, trains=True)
    mixture, _ = tiny_model("qwen3_moe")
    config = mixture.config.get_text_config()
    frozen = find_experts(config, None, trains=False)
    assert frozen is not None
    assert frozen.weight == 0
    config.decoder_sparse_step, config.mlp_only_layers = 2, [3]
    config.num_hidden_layers = 4
    some = find_experts(config, None, trains=True)
    assert some is not None
    assert some.layers == 1


@pytest.mark.parametrize("objective", [{"kind": "sft"}, {"kind": "dpo", "router_weight": 0.1}])
def test_usage_is_logged(tmp_path: Path, objective: dict[str, Any]) -> None:
    made = recipe(
        tmp_path,
        (stage(steps=2, train={"language": "full"}, objective=objective),),
        model=tiny_spec("mixtral"),
        data={
            "sources": with_pairs(tmp_path / "data"),
            "batch": BatchSpec(tokens=256, tiles=16, per_step=2),
        },
        run={"log_every": 2},
    )
    (entry,) = entries(run_recipe(made))
    assert [len(layer) for layer in entry["expert_share"]] == [4, 4]
    assert [sum(layer) for layer in entry["expert_share"]] == pytest.approx([1, 1], abs=1e-3)
    assert entry["expert_share_max"] == pytest.approx(
        max(map(max, entry["expert_share"])), abs=1e-3
    )
    assert 1.5 < entry["router_loss"] < 4
    assert entry["loss"] > 0
