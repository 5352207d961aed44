"""bench/roofline.py, which writes the tables of docs/kernel.md."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastadam import _backend

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "bench" / "roofline.py"


@pytest.fixture(scope="module")
def roofline():
    if not SCRIPT.exists():
        pytest.skip(f"no {SCRIPT}")
    spec = importlib.util.spec_from_file_location("roofline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
def test_the_page_says_what_was_measured(roofline):
    page = (ROOT / "docs" / "kernel.md").read_text()
    report = json.loads((ROOT / "docs" / "kernel.json").read_text())
    assert roofline.rewritten(page, report) == page


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", _backend.available[:-1], indirect=True)
def test_what_bounds_a_step_is_computed(roofline, backend, dtype, tmp_path):
    compiler = _backend.describe()["built_with"].split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    units = roofline.compiled_units(backend, dtype, tmp_path)
    (m, v, passes), (numbers, k, _) = units["divider"].args, units["arithmetic"].args
    rel = 1e-3 if dtype == "float32" else 1e-10
    expected = passes * (m / np.sqrt(v, dtype=np.float64)).sum()
    assert units["divider"]() == pytest.approx(expected, rel=rel)
    grad, param, exp_avg, exp_avg_sq = numbers.astype(np.float64)
    g = grad * k[0]
    m, v = k[1] * exp_avg + k[2] * g, k[3] * exp_avg_sq + k[4] * (g * g)
    expected = passes * (param * k[7] - k[8] * m * (v * k[5] + k[6])).sum()
    assert units["arithmetic"]() == pytest.approx(expected, rel=rel)
