"""Memory of a loader worker while it reads a large index, in one run.

    python benchmarks/memory.py            a million records
    python benchmarks/memory.py --quick    a hundred thousand
    python benchmarks/memory.py --json     one JSON object

A file of short conversations is written and indexed; one process then reads records in random
order, as a worker does, and its private memory is taken at every tenth of the way. Flat means that
the last reading is hardly above the one after the first tenth. Parsed whole, the records would
take the bytes given beside it.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from triptych.data.readers import open_reader
from triptych.data.record import Record


def private_bytes() -> int:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return 1024 * sum(sizes)


def write(path: Path, count: int) -> None:
    """Conversations with two images and a few texts each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            parts = [{"type": "image", "image": f"{number % 97}-{k}.png"} for k in range(2)]
            question = [*parts, {"type": "text", "text": f"What is the number of {number}?"}]
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"It is {number * 7919 % 1000003}."},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def weigh(record: Record) -> int:
    """Bytes of a parsed record."""
    parts = [part for message in record.messages for part in message.content]
    values = [value for part in parts for value in vars(part).values()]
    return sum(sys.getsizeof(one) for one in (record, record.messages, *parts, *values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a hundred thousand records")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    count = 100_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        write(path, count)
        before = private_bytes()
        begin = time.perf_counter()
        reader = open_reader(path)
        indexed = time.perf_counter() - begin
        gc.collect()
        index_bytes = private_bytes() - before
        order = np.random.default_rng(0).permutation(count)
        taken = [private_bytes()]
        begin = time.perf_counter()
        for tenth in np.array_split(order, 10):
            for number in tenth:
                reader[int(number)]
            taken.append(private_bytes())
        seconds = time.perf_counter() - begin
        parsed = count * weigh(reader[0])
    report = {
        "records": count,
        "index_bytes": index_bytes,
        "index_seconds": round(indexed, 2),
        "records_per_s": round(count / seconds),
        "private_bytes": taken,
        "growth_bytes": taken[-1] - taken[1],
        "parsed_bytes": parsed,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for name, value in report.items():
        print(f"{name:>16} {value}")


if __name__ == "__main__":
    main()
