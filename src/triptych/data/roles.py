"""The order of roles in a record, and its rounds."""

from collections.abc import Sequence
from itertools import pairwise

from triptych.data.schema import Message


def role_errors(messages: Sequence[Message]) -> list[str]:
    """What makes a conversation impossible to put into a chat template; empty when all is well."""
    roles = [message.role for message in messages]
    if "document" in roles:
        if len(roles) == 1:
            return []
        return ["a message of role document must stand alone; put conversations in other records"]
    errors = [
        f"messages[{index}] is a system message; only the first message may be one"
        for index, role in enumerate(roles)
        if role == "system" and index > 0
    ]
    spoken = [(index, role) for index, role in enumerate(roles) if role != "system"]
    if not spoken:
        errors.append("there is no user message; a conversation begins with one")
    elif spoken[0][1] != "user":
        errors.append(
            f"messages[{spoken[0][0]}] is of role {spoken[0][1]}; a conversation begins with a "
            "user message"
        )
    errors.extend(
        f"messages[{index}] repeats the role {role}; user and assistant take turns, "
        "so join the two messages"
        for (_, before), (index, role) in pairwise(spoken)
        if before == role
    )
    return errors


def split_rounds(
    messages: Sequence[Message],
) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """Split a conversation into its leading system messages and its rounds.

    A round begins at a user message that is first or follows an answer, and runs to the next one.
    A document is one round.
    """
    head = 0
    while head < len(messages) and messages[head].role == "system":
        head += 1
    starts = [
        index
        for index in range(head, len(messages))
        if index == head
        or (messages[index].role == "user" and messages[index - 1].role == "assistant")
    ]
    stops = [*starts[1:], len(messages)]
    rounds = [tuple(messages[a:b]) for a, b in zip(starts, stops, strict=True)]
    return tuple(messages[:head]), rounds
