"""Examples in docstrings and in the README run and print what they say."""

import doctest
import pathlib
import re

import numpy as np
import pytest

import fastadam
from fastadam import _config, functional, optimizer

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("module", [_config, functional, optimizer])
def test_docstrings(module):
    result = doctest.testmod(module, extraglobs={"np": np, "fastadam": fastadam})
    assert result.attempted > 0
    assert result.failed == 0


def test_readme():
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


def test_public_names_are_documented():
    for name in fastadam.__all__:
        if not name.startswith("__"):
            assert ">>>" in getattr(fastadam, name).__doc__, f"{name} has no example"
