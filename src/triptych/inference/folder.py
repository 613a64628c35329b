"""Where a trained model lies."""

from importlib.resources import files
from pathlib import Path

from triptych.errors import CheckpointError

SHIPPED = ("starter",)
"""Names of the models that come with the package, unless a folder with a model is called so."""


def find_model(path: str | Path) -> Path:
    """The model folder that ``path`` names: itself, inside a run folder, or one of this package.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path)
    candidates = (folder, folder / "model")
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    if str(path) in SHIPPED:
        return Path(str(files("triptych") / "shipped" / str(path)))
    looked = " and ".join(str(candidate / "config.json") for candidate in candidates)
    if not folder.exists():
        state = "does not exist"
    elif folder.is_file():
        state = "is a file"
    elif (folder / "checkpoints").is_dir():
        state = "is a run that has not finished: resume it (triptych train --resume)"
    else:
        state = "is neither a model folder nor a run folder"
    raise CheckpointError(f"{folder} {state}; looked for {looked}")
