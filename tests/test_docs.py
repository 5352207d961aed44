"""Examples in docstrings and in the README run and print what they say."""

import doctest
import importlib
import pathlib
import re

import numpy as np
import pytest

import fastadam
from fastadam import _config, _rows, _threads, family, functional, optimizer, schedules

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize(
    "module", [_config, _rows, _threads, family, functional, optimizer, schedules]
)
def test_docstrings(module):
    result = doctest.testmod(module, extraglobs={"np": np, "fastadam": fastadam})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "block", re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
)
def test_readme(block):
    try:
        exec(compile(block, str(README), "exec"), {})
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fastadam"):
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("name", ["scipy", "sklearn", "torch"])
def test_adapters(name):
    package = pytest.importorskip(name)
    module = importlib.import_module(f"fastadam.{name}")
    names = {"np": np, "fastadam": fastadam, name: package}
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0
    for public in module.__all__:
        text = getattr(module, public).__doc__
        assert ">>>" in text or "See `" in text, f"{public} has no example"


def test_public_names_are_documented():
    for module in (fastadam, schedules):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                assert ">>>" in value.__doc__, f"{name} has no example"
    for name, method in vars(optimizer.Optimizer).items():
        if callable(method) and not name.startswith("_"):
            assert ">>>" in method.__doc__ or "See `" in method.__doc__, f"{name} has no example"
