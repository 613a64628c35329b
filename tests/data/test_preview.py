from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from tests.data.tiny import answer, paint, user

from triptych.data.preview import CLOSE, OPEN, ImageView, TextView, render, view, visible
from triptych.data.preview_html import page
from triptych.data.schema import Record, parse_record
from triptych.model.processing import TriptychProcessor


def record(folder: Path, *messages: dict[str, Any]) -> Record:
    for shade in (1, 2):
        paint(folder, f"{shade}.png", 100 * shade)
    return parse_record({"messages": list(messages)}, "f.jsonl:1", folder)


def example(folder: Path) -> Record:
    return record(
        folder,
        user("What is <b>this</b>?", "1.png"),
        answer("yes"),
        user("Sure?", "2.png"),
        answer("no", loss=False),
    )


def printed(shown: RenderableType, *, colour: bool = False) -> str:
    console = Console(
        width=200, record=True, force_terminal=colour, color_system="standard" if colour else None
    )
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def test_messages_show_numbered_images_and_supervised_answers(tmp_path: Path) -> None:
    text = printed(render(view(example(tmp_path))))
    assert "user: [image 1: 1.png, 10x12]What is <b>this</b>?" in text
    assert "user: [image 2: 2.png, 10x12]Sure?" in text
    assert f"assistant: {OPEN}yes{CLOSE}" in text
    assert "assistant: no" in text


def test_supervised_text_is_marked_by_colour_too(tmp_path: Path) -> None:
    assert f"\x1b[1;32m{OPEN}yes{CLOSE}" in printed(render(view(example(tmp_path))), colour=True)


def test_with_a_processor_the_exact_supervised_tokens_are_shown(
    tmp_path: Path, processor: TriptychProcessor
) -> None:
    shown = view(example(tmp_path), processor)
    ((_, pieces),) = shown.turns
    supervised = [p.text for p in pieces if isinstance(p, TextView) and p.supervised]
    assert supervised == [f"yes{processor.end_token}"]
    images = [piece for piece in pieces if isinstance(piece, ImageView)]
    assert [str(image) for image in images] == [
        "[image 1: 1.png, 10x12, 4 tokens]",
        "[image 2: 2.png, 10x12, 4 tokens]",
    ]
    assert shown.tokens is not None
    prompt = processor.encode(example(tmp_path).to_messages(), [(10, 12)] * 2)
    assert shown.tokens == (len(prompt), sum(prompt.supervised))


def test_the_text_with_a_processor_is_what_the_model_sees(
    tmp_path: Path, processor: TriptychProcessor
) -> None:
    part = record(tmp_path, user("größe 漢字 🙂?"), answer("no"))
    ((_, pieces),) = view(part, processor).turns
    whole = processor.apply_chat_template(part.to_messages())
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextView)) == whole


def test_what_is_wrong_is_shown(tmp_path: Path, processor: TriptychProcessor) -> None:
    missing = record(tmp_path, user("x", "gone.png"), answer("no", loss=False))
    for chosen in (None, processor):
        text = printed(render(view(missing, chosen)))
        assert "problem: [image 1: " in text
        assert "gone.png: no such image file" in text
        assert "problem: nothing is supervised" in text


def test_a_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    hostile = record(tmp_path, user("\x1b[2J [bold]x[/bold] \u202e\r\a"), answer("no"))
    text = printed(render(view(hostile)))
    assert not set("\x1b\u202e\r\a") & set(text)
    assert r"\x1b[2J [bold]x[/bold]" in text
    assert visible("größe\n漢字\t🙂") == "größe\n漢字\t🙂"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.marked: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.stack.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        assert "b" not in self.stack, "text of a record became a tag"
        if self.stack and self.stack[-1] == "mark":
            self.marked.append(data)


def test_the_page_is_whole_escaped_and_marks_what_is_supervised(tmp_path: Path) -> None:
    gone = record(tmp_path, user("</mark><script>alert(1)</script>", "gone.png"), answer("maybe"))
    text = page([view(example(tmp_path)), view(gone)], "f.jsonl <1>")
    tags = Tags()
    tags.feed(text)
    assert tags.stack == []
    assert tags.marked[1:] == ["yes", "maybe"]
    assert len(tags.sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    assert "<script" not in text
    assert "image 2: 2.png, 10x12" in text
    assert "no such image file" in text
