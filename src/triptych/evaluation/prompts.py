"""The prompts of all answers of a record out of one tokenisation of the record."""

from itertools import groupby

from triptych.errors import DataError
from triptych.inference.requests import Request
from triptych.model.prompt import Prompt


def answer_spans(request: Request, where: str, expected: int) -> list[tuple[int, int]]:
    """[start, stop) of the tokens of each answer in the loss, its end token included.

    Args:
        request: a whole record.
        where: names the record in errors.
        expected: number of answers that must be found.

    Raises:
        DataError: another number was found; two answers stand side by side.
    """
    spans = []
    place = 0
    for supervised, run in groupby(request.prompt.supervised):
        start, place = place, place + sum(1 for _ in run)
        if supervised:
            spans.append((start, place))
    if len(spans) != expected:
        raise DataError(
            f"{where}: {expected} answers to be judged, but {len(spans)} stretches of supervised "
            "tokens; put a user message between two answers"
        )
    return spans


def cut_before(request: Request, stop: int) -> Request:
    """The first ``stop`` tokens of a request with the images that stand in them."""
    whole = request.prompt
    spans = [span for span in whole.spans if span[1] <= stop]
    prompt = Prompt(
        whole.input_ids[:stop], whole.supervised[:stop], spans, whole.sizes[: len(spans)]
    )
    return Request(prompt, request.pictures[: len(spans)])
