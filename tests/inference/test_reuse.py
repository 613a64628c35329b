"""Every image once: logits equal those of a whole forward pass, and only text is run."""

from functools import cache
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tests.inference.reuse import close, engine_of, looked, reused, sequence, whole
from tests.inference.tiny import paint
from tests.model.tiny import FAMILIES, picture, turn

from triptych.attention import ImageCache
from triptych.errors import RecipeError
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.prefill import Part
from triptych.inference.sampling import SamplingSpec

SHORT = SamplingSpec(max_new_tokens=5)
TALK = [turn("what color?", picture(0)), turn("and here", picture(1), picture(2))]


@cache
def common(scope: str) -> Engine:
    return engine_of(scope=scope)


def part(ids: list[int], pictures: list, start: int = 0) -> Part:  # type: ignore[type-arg]
    return Part(ids, start, pictures)


@pytest.mark.parametrize("scope", ["self", "image"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_known_images_in_another_order_behind_another_text(family: str, scope: str) -> None:
    engine = engine_of(family, scope)
    one, two, three = looked(engine, 1, 2, 3)
    reused(engine, [part(*sequence(engine, ["is there", one, "no", two, three, "yes"]))])
    parts = ["another text before them", three, " and ", one, two, "what color is it?"]
    ids, pictures = sequence(engine, parts)
    places, logits, ran = reused(engine, [part(ids, pictures)])
    image = engine.processor.image_token_id
    assert ran == len(places) == sum(token != image for token in ids)
    close(logits, whole(engine, ids, pictures)[places])


@pytest.mark.parametrize("scope", ["self", "image"])
@pytest.mark.parametrize(
    "shape", ["01", "01t", "t0", "t01", "0", "00t", "t0t0t1t0", "t0t1t2t", "tt"]
)
def test_images_anywhere(shape: str, scope: str) -> None:
    """At the start, at the end (where it is run, since its last logits are asked for), twice."""
    engine = common(scope)
    known = looked(engine, 0, 1, 2)
    ids, pictures = sequence(engine, ["circle?" if s == "t" else known[int(s)] for s in shape])
    for _ in range(2):
        places, logits, ran = reused(engine, [part(ids, pictures)])
        close(logits, whole(engine, ids, pictures)[places])
    size = engine.processor.count(*known[0].size)
    assert ran == len(places) == len(ids) - size * (len(pictures) - (shape[-1] != "t"))


@pytest.mark.parametrize("scope", ["self", "image"])
def test_bfloat16_is_as_exact_as_the_whole_pass(scope: str) -> None:
    """Both against float32, as far as the cache of one image after another lets them differ."""
    exact = engine_of(scope=scope)
    rough = engine_of(scope=scope, cache=False)
    rough.model.to(torch.bfloat16)
    rough = Engine(rough.model, rough.processor)
    errors = torch.zeros(2)
    for seed in range(4):
        known = looked(exact, seed, seed + 1)
        parts = ["what color is the shape", known[0], "yes", known[1], "is there a circle? no"]
        ids, pictures = sequence(exact, parts)
        wanted = whole(exact, ids, pictures).softmax(-1)
        places, logits, _ = reused(rough, [part(ids, pictures)])
        naive = whole(rough, ids, pictures)[places]
        for place, found in enumerate((logits, naive)):
            errors[place] += (found.float().softmax(-1) - wanted[places]).square().sum()
    reuse, naive = errors.sqrt().tolist()
    assert 0 < reuse <= 1.2 * naive


def test_a_new_conversation_runs_its_text_alone() -> None:
    engine = engine_of()
    Conversation(engine, "be short", SHORT).reply("compare them", [picture(0), picture(1)])
    assert engine.reuse is not None
    assert (engine.reuse.cache.hits, engine.reuse.cache.misses) == (0, 2)
    talk = Conversation(engine, "another system text", SHORT)
    talk.reply("and the other way round?", [picture(1), picture(0)])
    prompt = talk.ids[: talk.rounds[0].prompt_tokens]
    text = sum(token != engine.processor.image_token_id for token in prompt)
    assert (talk.rounds[0].prefilled_tokens, talk.rounds[0].reused_tokens) == (text, 8)
    assert engine.reuse.cache.hits == 2
    other = Conversation(engine_of(cache=False), "another system text", SHORT)
    answer = other.reply("and the other way round?", [picture(1), picture(0)])
    assert talk.rounds[0].answer == answer
    assert other.rounds[0].prefilled_tokens == len(prompt)
    assert engine.tokens_run == len(prompt) + text + 8 - (len(prompt) - _length(engine))


def _length(engine: Engine) -> int:
    """Tokens of the first conversation of the test above, images left out."""
    messages = [{"role": "system", "content": "be short"}]
    messages.append(turn("compare them", picture(0), picture(1)))
    return engine.requests([messages])[0].length - 8


def test_rounds_undo_and_interruption_keep_cache_and_text_together() -> None:
    engine, plain = engine_of(), engine_of(cache=False)
    answers = []
    for one in (engine, plain):
        talk = Conversation(one, "be short", SHORT)
        said = [talk.reply("what is this?", [picture(0)]).text]
        said.append(talk.reply("and these?", [picture(1), picture(0)]).text)
        talk.undo()
        said.append(talk.reply("no image now").text)
        said.append(talk.reply("and this?", [picture(2)]).text)
        assert talk.cached_tokens <= len(talk.ids)
        talk._kept.clear()
        said.append(talk.reply("again?", [picture(1)]).text)
        answers.append((said, talk.ids))
    assert answers[0] == answers[1]


def test_undo_within_a_moved_round_keeps_whole_rounds_only() -> None:
    engine = engine_of()
    talk = Conversation(engine, sampling=SHORT)
    talk.reply("hello")
    ids = list(talk.ids)
    before = talk.cached_tokens
    talk.reply("what is this?", [picture(0)])
    talk.undo()
    assert talk.ids == ids
    assert talk.cached_tokens == before
    talk.ask("and this?", [picture(1)])
    pictures = looked(engine, 1)
    close(talk._run()[0], whole(engine, talk.ids, pictures)[-1])


@pytest.mark.parametrize("scope", ["self", "image"])
@pytest.mark.parametrize("share", [False, True])
def test_batches_answer_the_same_with_the_cache_and_without(scope: str, share: bool) -> None:
    asked = [
        [turn("what color?", picture(0))],
        [turn("what color?", picture(0)), turn("and now", picture(1), picture(0))],
        [turn("no image at all")],
        [turn("what color?", picture(0)), turn("and now, is there a circle?", picture(1))],
    ]
    engine, plain = engine_of(scope=scope), engine_of(scope=scope, cache=False)
    wanted = plain.respond(asked, SHORT)
    for _ in range(2):
        assert engine.respond(asked, SHORT, share_prefixes=share) == wanted
    assert engine.reuse is not None
    assert engine.reuse.encoded_tokens == 8
    assert plain.tokens_reused == 0 < engine.tokens_reused


def test_sampling_penalty_and_stop_strings_work_over_reused_images() -> None:
    for spec in (
        SamplingSpec(max_new_tokens=8, temperature=1.5, seed=3),
        SamplingSpec(max_new_tokens=8, repetition_penalty=1.7),
        SamplingSpec(max_new_tokens=8, stop=("e",)),
    ):
        both = [engine_of(cache=cache).respond([TALK], spec) for cache in (True, False)]
        assert both[0] == both[1]


def test_the_limit_is_kept_and_costs_only_time() -> None:
    small = ImageCache(engine_of_bytes(1))
    engine = engine_of(cache=small)
    wanted = engine_of(cache=False).respond([TALK, TALK[:1]], SHORT)
    for _ in range(2):
        assert engine.respond([TALK, TALK[:1]], SHORT) == wanted
    assert len(small) == 1
    assert small.evicted > 0
    assert small.size_bytes <= small.limit_bytes


def engine_of_bytes(images: int) -> int:
    """Two layers, two key heads of width 8, four tokens, keys and values in float32."""
    return images * 2 * 2 * 8 * 4 * 2 * 4


def test_one_cache_serves_several_models() -> None:
    cache = ImageCache(10**7)
    engines = [engine_of(cache=cache, seed=seed) for seed in (0, 1, 0)]
    for engine in engines:
        engine.respond([TALK], SHORT)
    assert (cache.misses, cache.hits, len(cache)) == (6, 3, 6)


@pytest.mark.parametrize("change", ["in place", "behind autograd", "new tensor", "adapter"])
def test_changed_weights_are_another_model(change: str) -> None:
    engine = engine_of()
    ids, pictures = sequence(engine, ["yes", *looked(engine, 0), "no"])
    reused(engine, [part(ids, pictures)])
    layer = engine.model.language_model.get_decoder().layers[0].self_attn.k_proj
    if change == "in place":
        with torch.no_grad():
            layer.weight.mul_(1.5)
    elif change == "behind autograd":
        layer.weight.data += 0.3 * torch.randn_like(layer.weight)
    elif change == "new tensor":
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 1.5)
    else:
        config = LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)
        inject_adapter_in_model(config, engine.model.language_model)
        engine.model.eval()
    places, logits, _ = reused(engine, [part(ids, pictures)])
    close(logits, whole(engine, ids, pictures)[places])
    assert engine.reuse is not None
    assert engine.reuse.cache.hits == 0


def test_another_tiling_is_another_image() -> None:
    engine = engine_of()
    reused(engine, [part(*sequence(engine, ["yes", *looked(engine, 0), "no"]))])
    assert engine.reuse is not None
    engine.processor.vision = {**engine.processor.vision, "tile_size": 32}
    again = Engine(engine.model, engine.processor, image_cache=engine.reuse.cache)
    assert again.reuse is not None
    assert again.reuse._identify() != engine.reuse._identify()


@pytest.mark.parametrize("attention", ["causal", "mmca_as_coded"])
def test_other_rules_are_refused_or_do_without(attention: str) -> None:
    with pytest.raises(RecipeError, match=f"reused under attention '{attention}'"):
        engine_of(attention=attention, cache=ImageCache(1000))
    engine = engine_of(attention=attention)
    assert engine.reuse is None
    assert f"under attention '{attention}'" in engine.no_reuse
    assert engine_of(attention=attention, cache=False).no_reuse == ""


def test_an_unreadable_image_changes_nothing(tmp_path: Path) -> None:
    engine = engine_of()
    talk = Conversation(engine, sampling=SHORT)
    path = paint(tmp_path, "cut.png", 1)
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(Exception, match=r"cut\.png"):
        talk.ask("what is this?", [path])
    assert (talk.rounds, talk.ids) == ([], [])
