"""What docs/migration.md shows: programs before and after, to be run and compared."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "migration.md").read_text()
TITLES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
PROGRAM = re.compile(r"^(\w+)[^\n]*:\n\n```py(?:thon)?\n(.*?)^```", re.M | re.S)
#: What all programs of the page begin with.
PRELUDE = "".join(
    block
    for title in ('What "rounding" means', "The example")
    for block in re.findall(r"^```python\n(.*?)^```", TITLES[title], re.M | re.S)
    if "print" not in block or "import" in block
)

#: Ends a program: what it has trained, as JSON that gives the same numbers.
SHOW = """
def plain(value):
    value = value.detach() if hasattr(value, "detach") else value
    return np.asarray(value).tolist()


import json

print(json.dumps({name: plain(value) for name, value in params.items()}))
"""


def program(title, which):
    """That which a paragraph of a section, such as "Before:", is followed by."""
    for first_word, code in PROGRAM.findall(TITLES[title]):
        if first_word == which:
            return code
    raise LookupError(f"{title} has no program after {which!r}")


def child(code, *data, **environment):
    """What Python prints last, from JSON: it gets `data` as JSON, and prints such."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code], input=json.dumps(data),
        capture_output=True, text=True,
        env={**os.environ, "FASTADAM_BACKEND": "numpy", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def before(title, **environment):
    """What the program before the change has trained, in a process of its own."""
    return child(PRELUDE + program(title, "Before") + SHOW, **environment)


def after(title, capsys):
    """The same of the program after the change, in this one."""
    exec(compile(PRELUDE + program(title, "After") + SHOW, f"{title}, after", "exec"), {})
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def off(found, expected):
    """The largest difference between two lists, or two dicts, of arrays."""
    if isinstance(found, dict):
        assert set(found) == set(expected)
        found, expected = found.values(), [expected[name] for name in found]  # JAX sorts them
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max()) for a, b in pairs)
