"""What a user's type checker accepts and what it refuses, where mypy is installed."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import typing

import pytest
from members import NAMES, OF_TORCH

import fastadam
from fastadam import _backend

#: A line is refused exactly where it ends with the error's kind.
PROGRAM = """
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastadam
from fastadam import schedules

Floats = npt.NDArray[np.float32]


class Layer(NamedTuple):
    w: Floats
    b: Floats


class Model(NamedTuple):
    first: Layer
    others: list[Layer]
    scale: Floats


class Foreign:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return zeros()


def zeros() -> Floats:
    return np.zeros(3, np.float32)


def halved(finished: int) -> float:
    return 0.1 * 0.5**finished


def train(
    optimizer: fastadam.Optimizer,
    params: fastadam.ArrayTree,
    gradient: Callable[[fastadam.ArrayTree], fastadam.GradTree | None],
    schedule: fastadam.Schedule = halved,
) -> None:
    optimizer.lr = schedule
    optimizer.step(gradient(params))


layer = Layer(zeros(), zeros())
model = Model(layer, [layer], zeros())
named: dict[str, Floats] = {"w": zeros()}
listed: list[Floats] = [zeros()]
some: list[Floats | None] = [zeros(), None]
nested: dict[str, list[dict[str, Floats]]] = {"layers": [named]}
groups = [{"params": zeros(), "lr": 0.1}, {"params": listed, "lr": 0.2}]

fastadam.Adam(zeros())
fastadam.AdamW(layer)
fastadam.NAdam(model)
fastadam.RAdam(named)
fastadam.Adamax(listed)
fastadam.RMSprop(nested)
fastadam.SGD(groups)
fastadam.Adam((zeros(), [zeros(), {"b": zeros()}]), lr=schedules.ReduceOnPlateau(0.1))
fastadam.Adam([{"params": zeros(), "lr": halved}, {"params": named}])
opt: fastadam.Optimizer = fastadam.Adam(zeros(), lr=schedules.cosine_decay(0.1, 10))
drawn: npt.NDArray[Any] = schedules.cosine_decay(0.1, 10)(np.arange(10))
opt.step(zeros())
opt.step()
opt.step(Foreign())
opt.step(some)
opt.step({"w": zeros(), "b": None, "table": fastadam.RowGrad([1], zeros()), "x": [Foreign()]})
opt.accumulate(model)
train(opt, named, lambda params: params)
fastadam.adam_step(zeros(), fastadam.RowGrad([1], zeros()), zeros(), zeros(), step=1)
fastadam.adam_step(listed, some, listed, listed, step=[1])

fastadam.Adam(3)  # arg-type
fastadam.Adam([3])  # arg-type
fastadam.Adam({"w": 0.5})  # dict-item
fastadam.Adam(zeros(), lr=schedules.cosine_decay)  # arg-type
fastadam.Adma(zeros())  # attr-defined
fastadam.adam_step(listed, some, listed, listed, step=[1], wheight_decay=3)  # call-arg
opt.step(3.0)  # arg-type
opt.step({"w": 3})  # dict-item
opt.accumulate(3)  # arg-type

tensors: Any = []
fastadam.torch.Adam(tensors, 0.1, epsilon_hat=True)
fastadam.torch.SGD(tensors, 0.1, 0.9, nesterov=True).step()
"""
for name in NAMES:
    PROGRAM += f"fastadam.{name}(zeros(), weight_decay=0)\n"
    PROGRAM += f"fastadam.{name}(zeros(), wheight_decay=3)  # call-arg\n"
for name in OF_TORCH:
    PROGRAM += f"fastadam.torch.{name}(tensors, wheight_decay=3)  # call-arg\n"

#: To read all of torch takes mypy a quarter of a minute.
SETTINGS = """
[mypy]
strict = True
[mypy-fastadam.*]
follow_imports = silent
[mypy-torch.*,scipy.*,sklearn.*]
follow_imports = skip
ignore_missing_imports = True
"""


@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed")
@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
def test_mypy(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    root = pathlib.Path(fastadam.__file__).parent.parent
    environment = dict(os.environ)
    if root.name not in ("site-packages", "dist-packages"):  # where mypy finds it by itself
        environment["MYPYPATH"] = str(root)
    result = subprocess.run(
        [sys.executable, "-P", "-m", "mypy", "--config-file=mypy.ini", "program.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    found = {
        int(line): kind
        for line, kind in re.findall(
            r"^program\.py:(\d+): error: .*\[([\w-]+)\]$", result.stdout, re.M
        )
    }
    expected = {
        number: match[1]
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if (match := re.search(r"  # ([\w-]+)$", line))
    }
    assert found == expected, result.stdout + result.stderr


def test_types_can_be_extended():
    """At run time, where an annotation is evaluated."""

    def function(params: fastadam.ArrayTree | None, grads: fastadam.GradTree | None = None) -> None:
        pass

    assert set(typing.get_type_hints(function)) == {"params", "grads", "return"}
    for known in (fastadam.Adam.__init__, fastadam.Adam.step, fastadam.adam_step):
        assert len(typing.get_type_hints(known)) >= 2
