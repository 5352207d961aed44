"""Fuzz what loads checkpoint files, guided by the lines that it runs.

    python tests/fuzz/checkpoint.py FOLDER [-max_total_time=60] [...]

FOLDER keeps inputs that reached something new, from run to run; if it is empty, it gets some
from `mutations.seeds`. What begins with a dash is for libFuzzer; a file in place of FOLDER is
tried once. What must hold is in tests/mutations.py.
"""

import os
import random
import sys
import tempfile
import tracemalloc

import atheris

with atheris.instrument_imports(include=["fastadam"]):
    import fastadam  # noqa: F401

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import mutations

LIMITS = ["-max_len=30000", "-timeout=60", "-rss_limit_mb=1024"]


def main():
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    (kept,) = [a for a in sys.argv[1:] if not a.startswith("-")]
    scratch = tempfile.TemporaryDirectory()
    if not os.path.isfile(kept):
        os.makedirs(kept, exist_ok=True)
        for i, seed in enumerate(mutations.seeds(scratch.name)):
            with open(os.path.join(kept, f"seed-{i}"), "wb") as file:
                file.write(seed)
        options.append(f"-artifact_prefix={kept}/")

    def try_one(data):
        if data:
            mutations.check(data, scratch.name)

    def mutate(data, most, seed):
        def changed(part):
            return atheris.Mutate(part, len(part) + 64)

        return mutations.mutated(bytes(data) or b"\0", random.Random(seed), changed)[:most]

    tracemalloc.start()
    atheris.Setup([sys.argv[0], *LIMITS, *options, kept], try_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
