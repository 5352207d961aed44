"""The adapters are attributes of fastadam, each imported when it is first asked for."""

import subprocess
import sys

import pytest

import fastadam
from fastadam import _backend

#: For tests that choose no backend.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
ADAPTERS = {"scipy": "SciPy", "sklearn": "scikit-learn", "torch": "PyTorch"}


def run(code):
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@once
@pytest.mark.parametrize("name", ADAPTERS)
def test_found_without_an_import(name):
    pytest.importorskip(name)
    code = f"import sys, fastadam; print('{name}' in sys.modules, fastadam.{name}.__name__)"
    assert run(code) == f"False fastadam.{name}"


@once
@pytest.mark.parametrize("name", ADAPTERS)
def test_where_the_package_is_missing(name):
    code = (
        f"import sys, fastadam; sys.modules['{name}'] = None\n"
        f"print(hasattr(fastadam, '{name}'))\n"
        f"try: fastadam.{name}\n"
        "except AttributeError as error: print(error)\n"
        f"try: from fastadam import {name}\n"
        "except ImportError as error: print(error)\n"
    )
    package = {"sklearn": "scikit-learn"}.get(name, name)
    message = f"fastadam.{name} needs {ADAPTERS[name]}: pip install {package}"
    assert run(code).splitlines() == ["False", message, message]


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="module 'fastadam' has no attribute 'Adma'"):
        _ = fastadam.Adma
    assert not set(ADAPTERS) & set(fastadam.__all__)
