"""quarantine.jsonl: the samples that were left out of a run."""

import json
from dataclasses import asdict
from pathlib import Path

from triptych.data.corpus import Skipped


class Quarantine:
    """Appends samples that were left out to quarantine.jsonl, each once."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seen: set[tuple[str, str | None]] = set()
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                # A killed run may have left its last line unfinished.
                if line.endswith("}"):
                    entry = json.loads(line)
                    self._seen.add((entry["where"], entry["image"]))

    def add(self, skipped: Skipped) -> None:
        """Write one line, unless this sample was written before."""
        key = (skipped.where, skipped.image)
        if key in self._seen:
            return
        self._seen.add(key)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(skipped), ensure_ascii=False) + "\n")

    def __len__(self) -> int:
        return len(self._seen)
