"""Examples in docstrings and in the README run and print what they say."""

import doctest
import importlib
import inspect
import pathlib
import re
import sys

import numpy as np
import pytest

import fastadam
from fastadam import _config, _rows, _threads, family, functional, optimizer, schedules

README = pathlib.Path(__file__).parent.parent / "README.md"
CHOOSING = README.parent / "docs/choosing.md"


MEMBERS = dict.fromkeys(sys.modules[getattr(family, name).__module__] for name in family.__all__)
MODULES = [fastadam, _config, _rows, _threads, *MEMBERS, functional, optimizer, schedules]
ADAPTERS = ["scipy", "sklearn", "torch"]


def run_examples(module):
    """Each docstring by itself, as if pasted into a new interpreter."""
    result = doctest.testmod(module, globs={})
    assert result.attempted > 0
    assert result.failed == 0


def public(module):
    return [(name, getattr(module, name)) for name in module.__all__]


def homes(value):
    """The modules of ours in which a function, or a class and what it is derived from, is."""
    found = value.__mro__ if inspect.isclass(value) else [value]
    return {one.__module__ for one in found if one.__module__.startswith("fastadam")}


def is_called(value):
    """Whether it is a function or a class of which users make objects."""
    is_code = inspect.isfunction(value) or inspect.isclass(value)
    return is_code and value is not optimizer.Optimizer


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module):
    run_examples(module)


@pytest.mark.parametrize(
    "block", re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
)
def test_readme(block, capsys):
    """Each block runs, and prints what the comment behind each `print` says."""
    try:
        exec(compile(block, str(README), "exec"), {})
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fastadam"):
            raise
        pytest.skip(f"{error.name} is not installed")
    printed = re.findall(r"print\(.*\)  # (.*)$", block, re.M)
    assert capsys.readouterr().out.splitlines() == printed


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name):
    pytest.importorskip(name)
    module = importlib.import_module(f"fastadam.{name}")
    for home in {home for _, value in public(module) for home in homes(value)}:
        run_examples(sys.modules[home])
    for name, value in public(module):
        text = value.__doc__
        assert ">>>" in text or "See `" in text, f"{name} has no example"


def listed_parameters(text):
    """The names in a docstring's section of parameters."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.M | re.S)
    heads = re.findall(r"^(\S.*)$", section[1] if section else "", re.M)
    return [name.lstrip("*") for head in heads for name in head.split(" : ")[0].split(", ")]


@pytest.mark.parametrize(
    "name", ["fastadam", "fastadam.schedules", "fastadam.scipy", "fastadam.torch"]
)
def test_parameters_are_documented(name):
    """Each class and function lists its own, so that they can be read where it is called."""
    if name in ("fastadam.scipy", "fastadam.torch"):
        pytest.importorskip(name.removeprefix("fastadam."))
    for called, value in public(importlib.import_module(name)):
        if is_called(value):
            listed = listed_parameters(inspect.getdoc(value))
            assert sorted(listed) == sorted(inspect.signature(value).parameters), called


def test_public_names_are_documented():
    for module in (fastadam, schedules):
        for name, value in public(module):
            if is_called(value):
                assert ">>>" in value.__doc__, f"{name} has no example"
    for name, method in vars(optimizer.Optimizer).items():
        if callable(method) and not name.startswith("_"):
            assert ">>>" in method.__doc__ or "See `" in method.__doc__, f"{name} has no example"


def test_choosing_has_every_member_with_its_memory():
    table = CHOOSING.read_text().partition("| member |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {row[0].strip("`").partition("(")[0] for row in rows} == set(family.__all__)
    for call, _, _, arrays, n_bytes, *_ in rows:
        name, options = re.fullmatch(r"`(\w+)\((.*)\)`", call).groups()
        param = np.zeros(2**16, np.float32)
        opt = getattr(fastadam, name)(param, **eval(f"dict({options})"))
        state = [array for array in opt._batch.arrays.slots[0].state if array is not None]
        assert (len(state), round(opt.state_bytes / param.size, 2)) == (int(arrays), float(n_bytes))
