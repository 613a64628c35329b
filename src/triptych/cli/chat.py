"""``triptych chat``: rounds in the terminal, or one question from the command line."""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from triptych.cli.files import append_line
from triptych.cli.options import ImageCacheMb
from triptych.errors import TriptychError
from triptych.inference import Conversation, SamplingSpec, load_engine
from triptych.inference.reuse import statistics
from triptych.inference.vision import Picture

HELP = """\
/image PATH...  attach images to the next round (quote paths with spaces)
/images         list the images with the numbers that texts refer to them by
/undo           take back images not sent yet, else the last round
/clear          begin anew
/stats          tokens run and reused, and the state of the image cache
/save FILE      append the conversation to a jsonl file, as a record
/help           this list
/quit           leave (also Ctrl-D)
Ctrl-C stops an answer; what has come of it stays in the conversation."""


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder, or starter.")],
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="An image for the first round.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the answer and leave.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --prompt: print one JSON object.")
    ] = False,
    system: Annotated[str, typer.Option(help="Text of the system message.")] = "",
    drop_oldest: Annotated[
        bool, typer.Option(help="Drop the oldest rounds when the context is full.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample within this share of probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among so many; 0 is all.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 avoids repetition.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends an answer.")] = None,
    image_cache_mb: ImageCacheMb = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
) -> None:
    """Talk with a model about images, in rounds; with --prompt, ask once and leave."""
    if as_json and prompt is None:
        raise typer.BadParameter("--json needs --prompt")
    sampling = SamplingSpec(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    disable_progress_bar()
    engine = load_engine(model, device=device, image_cache_mb=image_cache_mb)
    talk = Conversation(engine, system, sampling, drop_oldest)
    images = list(image or [])
    if prompt is None:
        Session(talk).run(images)
    elif as_json:
        print(json.dumps(ask_once(talk, prompt, images), ensure_ascii=False))
    else:
        for piece in talk.ask(prompt, images):
            print(piece, end="", flush=True)
        print()


def ask_once(talk: Conversation, prompt: str, images: list[Path]) -> dict[str, Any]:
    """Ask one question; return the answer with its numbers as a JSON object."""
    start = time.perf_counter()
    answer = talk.reply(prompt, images)
    seconds = time.perf_counter() - start
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "prefilled_tokens": talk.rounds[-1].prefilled_tokens,
        "reused_tokens": talk.rounds[-1].reused_tokens,
        "answer_tokens": len(answer.tokens),
        "images": [
            {
                "path": str(one.picture.source),
                "width": one.picture.size[0],
                "height": one.picture.size[1],
                "tokens": one.tokens,
            }
            for one in talk.images
        ],
        "image_cache": statistics(talk.engine.reuse, talk.engine.no_reuse),
        "seconds": round(seconds, 4),
    }


class Session:
    """The loop over lines: commands begin with a slash, all else is a question.

    Args:
        talk: the conversation.
        console: where everything is printed.
    """

    def __init__(self, talk: Conversation, console: Console | None = None) -> None:
        self.talk = talk
        self.console = console or Console(soft_wrap=True)
        self.pending: list[Picture] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._attach,
            "/images": self._list,
            "/undo": self._undo,
            "/clear": self._clear,
            "/stats": self._stats,
            "/save": self._save,
            "/help": lambda _: self._say(HELP),
        }

    def run(self, images: list[Path]) -> None:
        """Read lines until /quit or the end of the input."""
        terminal = sys.stdin.isatty()
        if terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())
            self._say("Ask something; /image PATH attaches an image, /help lists the commands.")
        for path in images:
            self._attach_path(str(path))
        while True:
            try:
                line = self._read(terminal)
            except KeyboardInterrupt:
                self._say("\n(/quit leaves)")
                continue
            if line is None or line.split(maxsplit=1)[:1] in (["/quit"], ["/exit"]):
                return
            try:
                self.handle(line)
            except TriptychError as error:
                self._say(f"! {error}")
            except KeyboardInterrupt:
                self._say("(stopped)")

    def handle(self, line: str) -> None:
        """Do what one line says.

        Raises:
            TriptychError: it cannot be done; the conversation is as before.
        """
        line = line.strip()
        if not line:
            return
        if not line.startswith("/"):
            self._ask(line)
            return
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._say(f"! there is no command {name}; /help lists them")
        else:
            command(rest.strip())

    def _read(self, terminal: bool) -> str | None:
        if terminal:
            try:
                return input("you> ")
            except EOFError:
                self._say("")
                return None
        line = sys.stdin.readline()
        return line if line else None

    def _ask(self, text: str) -> None:
        before = self.talk.dropped
        pieces = self.talk.ask(text, [picture.source for picture in self.pending])
        self.pending = []
        if self.talk.dropped > before:
            self._say(f"(the oldest {self.talk.dropped - before} round(s) were dropped)")
        try:
            for piece in pieces:
                self.console.print(piece, end="", markup=False, highlight=False)
        except KeyboardInterrupt:
            self.console.print(" (stopped)", end="", markup=False)
        answer = self.talk.rounds[-1].answer
        self._say("" if answer.text else "(the answer is empty)")
        if answer.finish_reason == "length":
            limit = self.talk.sampling.max_new_tokens
            self._say(f"(cut after {limit} tokens; --max-new-tokens allows more)")

    def _attach(self, rest: str) -> None:
        if rest and Path(rest).expanduser().is_file():
            paths = [rest]
        else:
            try:
                paths = shlex.split(rest)
            except ValueError as error:
                self._say(f"! {rest}: {error}; close the quotes")
                return
        if not paths:
            self._say("! /image needs the path of an image file")
        for path in paths:
            self._attach_path(path)

    def _attach_path(self, path: str) -> None:
        try:
            picture = self.talk.engine.vision.look(str(Path(path).expanduser()))
        except TriptychError as error:
            self._say(f"! {error}")
            return
        self.pending.append(picture)
        number = len(self.talk.images) + len(self.pending)
        width, height = picture.size
        self._say(f"image {number}: {path} ({width} x {height}), sent with the next question")

    def _list(self, _: str) -> None:
        images = self.talk.images
        if not images and not self.pending:
            self._say("no images yet; /image PATH attaches one")
            return
        table = Table("image", "size", "tokens", "path", box=None)
        for one in images:
            size = "{} x {}".format(*one.picture.size)
            table.add_row(str(one.number), size, str(one.tokens), _name(one.picture))
        for number, picture in enumerate(self.pending, start=len(images) + 1):
            tokens = self.talk.engine.processor.count(*picture.size)
            size = "{} x {}".format(*picture.size)
            table.add_row(str(number), size, str(tokens), f"{_name(picture)} (next round)")
        self.console.print(table)

    def _undo(self, _: str) -> None:
        if self.pending:
            self.pending = []
            self._say("the images for the next round are taken back")
            return
        undone = self.talk.undo()
        self._say("the last round is taken back" if undone else "there is no round to take back")

    def _clear(self, _: str) -> None:
        self.talk.clear()
        self.pending = []
        self._say("a new conversation")

    def _stats(self, _: str) -> None:
        engine = self.talk.engine
        if self.talk.rounds:
            last = self.talk.rounds[-1]
            self._say(
                f"this round: {last.prefilled_tokens} tokens run before the answer, "
                f"{last.reused_tokens} visual tokens reused"
            )
        self._say(f"in all: {engine.tokens_run} run, {engine.tokens_reused} reused")
        state = statistics(engine.reuse, engine.no_reuse)
        self._say("image cache: " + ", ".join(f"{name} {value}" for name, value in state.items()))

    def _save(self, rest: str) -> None:
        try:
            names = shlex.split(rest)
        except ValueError as error:
            self._say(f"! {rest}: {error}; close the quotes")
            return
        if len(names) != 1:
            self._say("! /save needs one file name, such as talk.jsonl")
            return
        path = Path(names[0]).expanduser()
        try:
            append_line(path, json.dumps(self.talk.record(), ensure_ascii=False))
        except OSError as error:
            self._say(f"! {path}: {error.strerror}")
            return
        self._say(f"saved to {path}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)


def _name(picture: Picture) -> str:
    source = picture.source
    return source if isinstance(source, str) else f"({type(source).__name__})"
