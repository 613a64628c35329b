"""Right or wrong without generating: one forward pass judges all answers of a record.

Greedy decoding follows the reference as long as the likeliest token is the reference's; so it
gives the whole reference exactly when that holds for each of its tokens, end token included.
"""

from collections.abc import Callable, Sequence

import torch

from triptych.inference.engine import Engine
from triptych.inference.requests import Request


def follows_references(
    engine: Engine,
    requests: Sequence[Request],
    answers: Sequence[Sequence[tuple[int, int]]],
    progress: Callable[[int], None],
) -> list[list[bool]]:
    """For each record, for each of its answers, whether greedy decoding would give it.

    Args:
        engine: the model.
        requests: whole records.
        answers: [start, stop) of each answer's tokens in its record.
        progress: called after each batch with the number of answers it had.
    """
    for number, request in enumerate(requests, start=1):
        engine.check_context(request.length, 0, f"record {number}")
    results: list[list[bool]] = [[] for _ in requests]
    with engine.evaluating(), torch.no_grad():
        for batch in engine.batches(requests, room=0):
            matches = iter(_matches(engine, [requests[index] for index in batch]))
            for index in batch:
                for start, stop in answers[index]:
                    tokens = [next(matches) for _ in range(start, stop)]
                    results[index].append(all(tokens))
            progress(sum(len(answers[index]) for index in batch))
    return results


def _matches(engine: Engine, requests: Sequence[Request]) -> list[bool]:
    """Whether the likeliest token is the reference's, at every supervised token of a batch."""
    device = engine.model.device
    prompts = [request.prompt for request in requests]
    batch = engine.processor.collate(prompts, [[] for _ in prompts], labels=True)
    images = engine.vision.inputs([request.pictures for request in requests])
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: batch[name].to(device) for name in names} | images
    logits = engine.model(**inputs).logits
    targets = inputs["labels"][:, 1:]
    matches: list[bool] = (logits.argmax(-1) == targets[targets != -100]).tolist()
    return matches
