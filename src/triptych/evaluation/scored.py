"""Right or wrong without generating: one forward pass judges all answers of a record.

Greedy decoding follows the reference as long as the likeliest token is the reference's; so it
gives the whole reference exactly when that holds for each of its tokens, end token included.

Shape suffixes: N supervised tokens, W vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch

from triptych.inference.engine import Engine
from triptych.inference.requests import Message, Request
from triptych.inference.vision import image_inputs


def follows_references(
    engine: Engine,
    conversations: Sequence[Sequence[Message]],
    progress: Callable[[int], None] | None = None,
) -> list[list[bool]]:
    """For each conversation, for each answer in the loss, whether greedy decoding would give it.

    Args:
        engine: the model.
        conversations: whole records with their answers.
        progress: called after each batch with the number of conversations it had.
    """
    requests = engine.requests(conversations, add_generation_prompt=False)
    for number, request in enumerate(requests, start=1):
        engine.check_context(request.length, 0, f"record {number}")
    results: list[list[bool]] = [[] for _ in requests]
    with engine.evaluating(), torch.no_grad():
        for batch in engine.batches(requests, room=0):
            chosen = [requests[index] for index in batch]
            matches = iter(_matches(engine, chosen))
            for index, request in zip(batch, chosen, strict=True):
                results[index] = [
                    all([next(matches) for _ in range(tokens)]) for tokens in _answers(request)
                ]
            if progress is not None:
                progress(len(batch))
    return results


def _answers(request: Request) -> list[int]:
    """Number of tokens of each answer in the loss."""
    runs = groupby(request.prompt.supervised)
    return [sum(1 for _ in run) for supervised, run in runs if supervised]


def _matches(engine: Engine, requests: Sequence[Request]) -> list[bool]:
    """Whether the likeliest token is the reference's, at every supervised token of a batch."""
    device = engine.model.device
    prompts = [request.prompt for request in requests]
    batch = engine.processor.collate(prompts, [[] for _ in prompts], labels=True)
    features = iter(engine.vision.features([one for r in requests for one in r.pictures]))
    images = [[next(features) for _ in request.pictures] for request in requests]
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: batch[name].to(device) for name in names} | image_inputs(images, device)
    logits = engine.model(**inputs).logits
    targets = inputs["labels"][:, 1:]
    matches: list[bool] = (logits.argmax(-1) == targets[targets != -100]).tolist()
    return matches
