import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from triptych.data.roles import role_errors, split_rounds
from triptych.data.schema import ImagePart, Message, Record, TextPart, parse_record
from triptych.errors import DataError

GOOD: dict[str, Any] = {
    "id": "r1",
    "source": "made up",
    "license": "MIT",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": "What is in image 1?"},
                {"type": "image_url", "image_url": {"url": "b.png", "detail": "auto"}},
            ],
        },
        {"role": "assistant", "content": "A circle.", "loss": False},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}], "category": "yes-no"},
    ],
}


def test_a_record_keeps_texts_images_and_their_order() -> None:
    record = parse_record(GOOD, "f.jsonl:1", Path("/pictures"))
    assert [image.image for image in record.images] == ["a.png", "b.png"]
    assert record.images[1].location == "/pictures/b.png"
    assert [message.loss for message in record.messages] == [True, True, False, True, True]
    assert [message.learned for message in record.messages] == [False, False, False, False, True]
    assert record.messages[1].content[1] == TextPart("What is in image 1?")
    assert record.messages[4].category == "yes-no"


def test_plain_messages_have_the_shape_the_processor_takes() -> None:
    messages = parse_record(GOOD, "f:1", Path("/pictures")).to_messages()
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[1]["content"] == [
        {"type": "image", "image": "/pictures/a.png"},
        {"type": "text", "text": "What is in image 1?"},
        {"type": "image", "image": "/pictures/b.png"},
    ]
    assert messages[2] == {"role": "assistant", "content": "A circle.", "loss": False}


def test_a_record_written_and_read_again_is_the_same() -> None:
    record = parse_record(GOOD, "f:1", Path("/pictures"))
    again = parse_record(json.loads(json.dumps(record.to_json())), "f:1", Path("/pictures"))
    assert again == record


def test_a_data_uri_is_never_put_under_the_image_folder() -> None:
    assert ImagePart("data:image/png;base64,AAAA", Path("/p")).location.startswith("data:")  # type: ignore[union-attr]


def test_bytes_cannot_be_written_as_json() -> None:
    record = Record((Message("user", (ImagePart(b"123"),)),), "f:1")
    with pytest.raises(DataError, match=r"f:1.*bytes"):
        record.to_json()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("messages",), None, "f:7: 'messages' is missing or null"),
        (("messages",), [], "'messages' is empty"),
        (("mesages",), [], "did you mean 'messages'"),
        (("messages", 1, "role"), "humen", r"messages\[1\]: unknown role 'humen'"),
        (("messages", 1, "role"), "asistant", "did you mean 'assistant'"),
        (("messages", 1, "content"), 3, r"messages\[1\]: 'content' is 3 \(a number\)"),
        (("messages", 1, "content"), [], "empty list"),
        (("messages", 1, "content", 0, "type"), "imag", r"content\[0\]: unknown type 'imag' \(did"),
        (("messages", 1, "content", 0, "image"), "", "a path or a data URI is expected"),
        (("messages", 1, "content", 0, "image"), "a\0b", "a path or a data URI is expected"),
        (("messages", 1, "content", 0, "img"), "x", "unknown key 'img'.*did you mean 'image'"),
        (("messages", 1, "content", 1, "text"), "\ud800", "lone surrogate"),
        (("messages", 1, "content", 2, "image_url"), {"ur": "x"}, "did you mean 'url'"),
        (("messages", 2, "loss"), "no", "true or false"),
        (("messages", 1, "loss"), True, "only assistant and document"),
        (("id",), ["x"], "'id' is a list of 1"),
        (("metadata",), "x", "'metadata' is the text 'x'"),
    ],
)
def test_an_error_says_where_what_and_what_is_expected(
    path: tuple[str | int, ...], value: object, expected: str
) -> None:
    broken: Any = copy.deepcopy(GOOD)
    node = broken
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    with pytest.raises(DataError, match=expected) as caught:
        parse_record(broken, "f:7")
    assert str(caught.value).startswith("f:7")
    assert len(str(caught.value)) < 400


JUNK: list[Any] = [
    None, True, 0, -1.5, 10**400, float("nan"), "", "x" * 10_000, "\ud800", b"", b"x", [], [[]], {},
    {"": None}, {1: 2}, [None], [{}], {"type": "image"}, {"type": ["text"]}, {"role": {}}, ("a",),
    set(), object(),
]  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


def _mutate(rng: random.Random) -> Any:
    root: Any = [copy.deepcopy(GOOD)]
    path = rng.choice(_places(root)[1:])
    node = root
    for step in path[:-1]:
        node = node[step]
    kind = rng.randrange(3)
    if kind == 0 or len(path) == 1:
        node[path[-1]] = rng.choice(JUNK)
    elif kind == 1:
        del node[path[-1]]
    elif isinstance(node, dict):
        node[str(path[-1]) + rng.choice("xs_")] = node.pop(path[-1])
    else:
        node.insert(path[-1], rng.choice(JUNK))
    return root[0]


def test_every_malformed_record_is_a_data_error_and_nothing_else() -> None:
    rng = random.Random(5)
    messages = []
    for _ in range(3000):
        record = _mutate(rng)
        try:
            parse_record(record, "f:1")
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 2000
    assert all(message.startswith("f:1") and len(message) < 500 for message in messages)


def roles(*names: str) -> list[Message]:
    return [Message(name, (TextPart("x"),)) for name in names]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (roles("user", "assistant"), None),
        (roles("system", "user", "assistant", "user"), None),
        (roles("document"), None),
        (roles("document", "user"), "alone"),
        (roles("assistant", "user"), "begins with a user message"),
        (roles("system", "assistant"), "messages[1] is of role assistant"),
        (roles("system"), "no user message"),
        (roles("user", "user", "assistant"), "messages[1] repeats the role user"),
        (roles("user", "assistant", "system", "user"), "messages[2] is a system message"),
    ],
)
def test_the_order_of_roles(messages: list[Message], expected: str | None) -> None:
    found = role_errors(messages)
    assert bool(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_rounds_hold_every_message_once() -> None:
    messages = roles("system", "user", "assistant", "user", "assistant", "user")
    head, rounds = split_rounds(messages)
    assert [len(part) for part in rounds] == [2, 2, 1]
    assert list(head) + [message for part in rounds for message in part] == messages
