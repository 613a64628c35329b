"""Attention rules inside a model: every language-model family, caches, padding, generation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.attention.layouts import NATIVE
from tests.model.checks import (
    LONG,
    SETTINGS,
    SHORT,
    TEXT,
    Inputs,
    Pair,
    check_batch,
    check_cached_generation,
    check_checkpointing,
    check_generation,
    check_saved,
    close,
    inputs,
    training_batch,
)
from tests.model.tiny import FAMILIES, TEXTS, answer, tiny_model, tiny_spec, turn
from tests.oracles.attention import oracle
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache

from triptych.attention import (
    AttentionLayout,
    implementation_name,
    interface,
    make_rule,
    register_attention,
)
from triptych.attention.kernels import flex
from triptych.errors import RecipeError, SpanError
from triptych.model import TriptychForConditionalGeneration
from triptych.model.build import initialise

RULES = [("mmca", "self"), ("mmca", "image"), ("mmca_as_coded", "self")]


def make(family: str = "llama", attention: str = "mmca", scope: str = "self") -> Pair:
    spec = tiny_spec(family).model_copy(update={"attention": attention, "image_scope": scope})
    model, processor = initialise(spec, texts=TEXTS)
    return model.eval(), processor


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    return make(request.param)


@contextmanager
def computed_by_the_oracle(rule: str, scope: str) -> Iterator[None]:
    """Let the oracle stand in for the kernels, under the name of the rule."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        layout: AttentionLayout = kwargs["attention_layout"]
        tokens = layout.tokens
        out = oracle(
            rule, scope, query, key, value, tokens.kinds, kwargs["scaling"], tokens.documents,
            tokens.images,
        )  # fmt: skip
        return out.transpose(1, 2), None

    AttentionInterface.register(implementation_name(make_rule(rule, scope)), attend)
    try:
        yield
    finally:
        register_attention(make_rule(rule, scope))


@torch.no_grad()
def test_logits_equal_the_oracle_on_either_padding_side(pair: Pair) -> None:
    model, processor = pair
    for side in ("left", "right"):
        batch = inputs(processor, LONG, SHORT, TEXT, side=side)
        found = model(**batch).logits
        with computed_by_the_oracle("mmca", "self"):
            wanted = model(**batch).logits
        kept = batch["attention_mask"].bool()
        close(found[kept], wanted[kept])


@pytest.mark.parametrize("kernel", ["packed", "blocked", NATIVE])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_and_kernel_equals_the_oracle(
    rule: tuple[str, str], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttentionLayout, "prefers_blocks", kernel == "blocked")
    monkeypatch.setattr(interface, "has_native", lambda: kernel == "native")
    model, processor = make("llama", *rule)
    batch = inputs(processor, LONG, SHORT, TEXT)
    found = results(model, batch)
    with computed_by_the_oracle(*rule):
        wanted = results(model, batch)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_flex_where_it_is_asked_for_equals_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_FLEX", "1")
    made = count_calls(monkeypatch, flex, "_make_mask")
    model, processor = make("llama", "mmca", "self")
    batch = inputs(processor, LONG, SHORT, TEXT)
    found = model(**batch).logits[batch["attention_mask"].bool()]
    with computed_by_the_oracle("mmca", "self"):
        wanted = model(**batch).logits[batch["attention_mask"].bool()]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    assert 1 <= len(made) <= 2, "masks are made once for all layers"


def count_calls(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[str]:
    calls: list[str] = []
    inner = vars(module)[name]

    def counted(*args: Any) -> Any:
        calls.append(name)
        return inner(*args)

    monkeypatch.setattr(module, name, counted)
    return calls


def results(model: TriptychForConditionalGeneration, batch: Inputs) -> list[Tensor]:
    """Probabilities of the tokens kept, and all gradients of a function of them."""
    model.zero_grad()
    probabilities = model(**batch).logits[batch["attention_mask"].bool()].softmax(-1)
    probabilities.square().sum().backward()
    return [probabilities.detach(), *[p.grad for p in model.parameters() if p.grad is not None]]


def test_batch_equals_one_by_one(pair: Pair) -> None:
    check_batch(pair, LONG, SHORT, TEXT)


@torch.no_grad()
def test_chunks_and_decoding_equal_the_whole(pair: Pair) -> None:
    model, processor = pair
    prompt = inputs(processor, LONG)
    tail = torch.tensor([[10, 11, 12]])
    ids = torch.cat([prompt["input_ids"], tail], 1)
    whole = model(**{**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    embeddings = _embeddings(model, prompt, ids)
    kinds = model.find_token_kinds(ids)
    for cuts in ([ids.shape[1] - 3, 1, 1, 1], [7, 11, ids.shape[1] - 20, 1, 1]):
        cache, start, found = DynamicCache(), 0, []
        for size in cuts:
            stop = start + size
            out = model(
                inputs_embeds=embeddings[:, start:stop],
                past_key_values=cache,
                token_kinds=kinds[:, :stop],
                use_cache=True,
            )
            found.append(out.logits)
            start = stop
        close(torch.cat(found, 1), whole)


def _embeddings(model: TriptychForConditionalGeneration, prompt: Inputs, ids: Tensor) -> Tensor:
    from triptych.model.vision import Images

    names = ("pixel_values", "tile_features", "tiles_per_image", "images_per_sample")
    return model.embed(ids, Images(*[prompt.get(name) for name in names]))


@pytest.mark.parametrize(
    "change", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_generation_in_a_batch_equals_alone(pair: Pair, change: dict[str, int]) -> None:
    check_generation(pair, LONG, SHORT, TEXT, **change)


@pytest.mark.parametrize("change", [{"do_sample": False}, {"do_sample": True, "temperature": 2.0}])
def test_generation_with_a_cache_equals_that_without(change: dict[str, Any]) -> None:
    check_cached_generation(make(), **change)


@torch.no_grad()
def test_kinds_grow_with_what_is_generated() -> None:
    model, processor = make()
    batch = inputs(processor, LONG, SHORT)
    kinds = model.find_token_kinds(batch["input_ids"], batch["attention_mask"])
    given = model.generate(**batch, token_kinds=kinds, **SETTINGS)
    assert torch.equal(given, model.generate(**batch, **SETTINGS))


@torch.no_grad()
def test_text_alone_equals_the_causal_model_bit_for_bit(pair: Pair) -> None:
    model, processor = pair
    batch = inputs(processor, TEXT)
    found = model(**batch).logits
    model.language_model.set_attn_implementation("sdpa")
    base = model.language_model(batch["input_ids"]).logits
    model.language_model.set_attn_implementation("triptych_mmca")
    new = model.new_tokens.first
    assert torch.equal(found[..., :new], base[..., :new])


@torch.no_grad()
def test_a_later_image_leaves_earlier_logits_bit_equal() -> None:
    model, processor = make()
    batch = inputs(processor, LONG)
    before = model(**batch).logits
    last = int((batch["input_ids"] == model.config.image_token_id)[0].nonzero()[-4, 0])
    batch["pixel_values"][-1] = 0
    after = model(**batch).logits
    assert torch.equal(before[:, :last], after[:, :last])
    assert not torch.equal(before[:, last:], after[:, last:])


@torch.no_grad()
def test_an_image_is_the_same_in_any_context() -> None:
    """What makes its keys and values reusable: hidden states depend on the image alone."""
    model, processor = make()
    states = []
    for conversation in (SHORT, [turn("a longer text before it"), answer("ok"), *SHORT]):
        batch = inputs(processor, conversation)
        hidden = model(**batch, output_hidden_states=True).hidden_states[-2]
        states.append(hidden[batch["input_ids"] == model.config.image_token_id])
    assert torch.allclose(*states, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(pair: Pair) -> None:
    model, processor = pair
    check_checkpointing(model, training_batch(processor))


@torch.no_grad()
def test_packed_documents_equal_single_ones() -> None:
    model, processor = make()
    singles = [inputs(processor, one) for one in (LONG, SHORT)]
    ids = torch.cat([one["input_ids"] for one in singles], 1)
    lengths = [one["input_ids"].shape[1] for one in singles]
    packed = model(
        input_ids=ids,
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        document_ids=torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None],
        pixel_values=torch.cat([one["pixel_values"] for one in singles]),
        tiles_per_image=torch.cat([one["tiles_per_image"] for one in singles]),
    ).logits
    close(packed, torch.cat([model(**one).logits for one in singles], 1))


def test_the_rule_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    model, processor = make(attention="mmca", scope="image")
    loaded = check_saved((model, processor), tmp_path)
    assert (loaded.config.attention, loaded.config.image_scope) == ("mmca", "image")
    batch = inputs(processor, LONG)
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits, make()[0](**batch).logits)


def test_what_would_break_the_rule_is_refused() -> None:
    model, processor = make("mistral")
    batch = inputs(processor, SHORT)
    cache = model(**batch, use_cache=True).past_key_values
    with pytest.raises(SpanError, match=r"token_kinds of all \d+ tokens.*found none"):
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)
    model.language_model.config.sliding_window = 4
    with pytest.raises(RecipeError, match="sliding window of 4 tokens"):
        model(**batch)
    model.language_model.set_attn_implementation("sdpa")
    with pytest.raises(RecipeError, match="switched to the attention implementation 'sdpa'"):
        model(**batch)
    with pytest.raises(RecipeError, match="image_scope 'image' needs"):
        make(attention="causal", scope="image")
    causal, processor = tiny_model()
    batch = inputs(processor, SHORT)
    documents = torch.zeros_like(batch["input_ids"])
    with pytest.raises(RecipeError, match=r"document_ids need attention .* over a cache"):
        causal(**batch, document_ids=documents, past_key_values=DynamicCache())
