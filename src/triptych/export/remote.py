"""What a model folder needs so that transformers' Auto classes load it by themselves.

Thin files of remote code that import the package triptych, and the entries that name them.
"""

import json
from importlib.resources import files
from pathlib import Path

from triptych import __version__

_CLASSES = {
    "config.json": {
        "AutoConfig": "configuration_triptych.TriptychConfig",
        "AutoModelForImageTextToText": "modeling_triptych.TriptychForConditionalGeneration",
    },
    "processor_config.json": {"AutoProcessor": "processing_triptych.TriptychProcessor"},
}


def add_remote_code(folder: Path) -> None:
    """Make ``AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)`` work.

    Args:
        folder: a saved model with its processor.
    """
    for name, classes in _CLASSES.items():
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8"))
        values["auto_map"] = classes
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for source in (files("triptych.export") / "files").iterdir():
        text = source.read_text(encoding="utf-8").replace("{version}", __version__)
        (folder / source.name).with_suffix(".py").write_text(text, encoding="utf-8")
