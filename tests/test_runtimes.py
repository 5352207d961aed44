"""Several OpenMP runtimes in one process: fastadam's, torch's and scikit-learn's."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastadam
from fastadam import _backend

PROGRAM = """
import importlib, json, os, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
import numpy as np
import fastadam, sklearn.cluster, threadpoolctl, torch

points = np.random.default_rng(1).standard_normal((20_000, 8)).astype(np.float32)

def torch_works():
    torch.ones(2_000_000).mul(2).sqrt().sum()

def sklearn_works():
    sklearn.cluster.KMeans(8, n_init=1, max_iter=5, random_state=0).fit(points)

def train(threads, *between):
    fastadam.set_num_threads(threads)
    rng = np.random.default_rng(2)
    param = rng.standard_normal(600_000).astype(np.float32)
    optimizer = fastadam.Adam(param)
    for _ in range(4):
        for work in between:
            work()
        optimizer.step(rng.standard_normal(param.size).astype(np.float32))
    return param.tobytes()

torch.set_num_threads(2)
alone = train(1)
found = {
    "torch, sklearn": train(3, torch_works, sklearn_works) == alone,
    "sklearn, torch": train(3, sklearn_works, torch_works) == alone,
}
pools = threadpoolctl.threadpool_info()
found["runtimes"] = [pool["filepath"] for pool in pools if pool["user_api"] == "openmp"]
with threadpoolctl.threadpool_limits(1, "openmp"):
    found["limited"] = fastadam.get_num_threads(), torch.get_num_threads()
    found["under a limit"] = train(3, torch_works, sklearn_works) == alone
child = os.fork()
if child == 0:
    os._exit(0 if train(3) == alone else 1)
found["forked"] = os.waitpid(child, 0)[1] == 0
found["after a fork"] = train(3, torch_works, sklearn_works) == alone
print(json.dumps(found))
"""


@pytest.mark.skipif(_backend.describe()["threading"] == "none", reason="it has one thread")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others bring other runtimes")
@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
@pytest.mark.parametrize("order", [["fastadam"], ["torch", "sklearn", "fastadam"]])
def test_side_by_side(order):
    """Whichever was first in the process."""
    for name in ("torch", "sklearn", "threadpoolctl"):
        if not importlib.util.find_spec(name):
            pytest.skip(f"{name} is not installed")
    result = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, *order],
        env={**os.environ, "OMP_NUM_THREADS": "3"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    runtimes = [Path(path).resolve() for path in found.pop("runtimes")]
    assert found.pop("limited") == [1, 1]
    assert set(found.values()) == {True}, found
    site = Path(fastadam.__file__).parent.parent
    bundled = {path.name for path in (site / "fastadam.libs").glob("libgomp*")}
    assert bundled <= {path.name for path in runtimes}
    # torch's and scikit-learn's wheels bring one each
    assert len(runtimes) >= 2 + len(bundled), runtimes
