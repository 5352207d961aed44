"""docs/recipes.md runs and does what it says: in other processes, since JAX starts threads."""

import importlib.util
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from mpiexec import environment_of, on_ranks

TEXT = (pathlib.Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
RECIPES = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", TEXT, re.M | re.S))
PACKAGES = {
    "Gradients from autograd": "autograd",
    "Gradients from JAX": "jax",
    "FedAdam in Flower": "flwr",
    "Arrays spread by pylops-mpi": "pylops_mpi",
}

FLOWERS_OWN_GIVES_THE_SAME = """
from types import SimpleNamespace
from flwr.app import MetricRecord, RecordDict

rng = np.random.default_rng(0)
weights = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal(4), "n": np.array([7])}
strategies = [cls(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3) for cls in (FastFedAdam, FedAdam)]
current = [weights, weights]
for server_round in (1, 2, 3):
    trained = [
        {name: w + 3 if name == "n" else w + rng.standard_normal(w.shape)
         for name, w in weights.items()}
        for _ in range(2)
    ]
    for i, strategy in enumerate(strategies):
        replies = []
        for examples, arrays in zip((10, 30), trained):
            record = ArrayRecord({name: Array(w) for name, w in arrays.items()})
            metrics = MetricRecord({"num-examples": examples})
            content = RecordDict({"arrays": record, "metrics": metrics})
            replies.append(SimpleNamespace(content=content, has_error=lambda: False))
        strategy.current_arrays = current[i]
        record, _ = strategy.aggregate_train(server_round, replies)
        current[i] = {name: array.numpy() for name, array in record.items()}
for name in "W", "b":
    # Three rounds, each with one power that may be off by one in the last place.
    np.testing.assert_allclose(current[0][name], current[1][name], rtol=3e-15, atol=1e-15)
    assert not (current[0][name] == weights[name]).all()
assert current[0]["n"] == 10

single = FastFedAdam()
single.current_arrays = {"W": np.ones(3, np.float32)}
content = RecordDict({
    "arrays": ArrayRecord({"W": Array(np.full(3, 2, np.float32))}),
    "metrics": MetricRecord({"num-examples": 1}),
})
reply = SimpleNamespace(content=content, has_error=lambda: False)
record, _ = single.aggregate_train(1, [reply])
assert record["W"].numpy().dtype == np.float32
"""

ONE_PROCESS_GIVES_THE_SAME = """
import pylops

derivative = pylops.FirstDerivative(size, kind="forward")
data = data.asarray()
alone = data.copy()
opt = fastadam.Adam(alone, lr=lr)
for _ in range(steps):
    slope = derivative @ alone
    slope /= np.sqrt(slope**2 + rounding**2)
    opt.step(alone - data + weight * (derivative.H @ slope))
assert x.size == ranks
assert x.asarray().tobytes() == alone.tobytes()
"""


def start(code, backend, folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        env={**os.environ, **environment_of(backend)}, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    out, error = process.communicate()
    assert process.returncode == 0, error[-3000:]
    return out


@pytest.mark.parametrize("title", RECIPES)
def test_runs(title, backend, tmp_path):
    package = PACKAGES.get(title)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    code = RECIPES[title] + (FLOWERS_OWN_GIVES_THE_SAME if package == "flwr" else "")
    finish(start(code, backend, tmp_path))


@pytest.mark.parametrize("ranks", [2, 3])
def test_pylops_mpi_has_the_bits_of_one_process(ranks, backend, tmp_path):
    pytest.importorskip("pylops_mpi")
    program = tmp_path / "program.py"
    program.write_text(
        RECIPES["Arrays spread by pylops-mpi"] + f"ranks = {ranks}" + ONE_PROCESS_GIVES_THE_SAME
    )
    on_ranks(ranks, program, **environment_of(backend))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_ends_with_the_same_bits(backend, tmp_path):
    code = RECIPES["A run that survives being killed"].replace(
        "steps, every = 400, 10", "steps, every = 4000, 7"
    )
    printed = finish(start(code, backend, tmp_path, "whole.ckpt"))
    killed, kills = tmp_path / "killed.ckpt", 0
    random.seed(12)
    for _ in range(4):
        process = start(code, backend, tmp_path, killed.name)
        while not killed.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0.1, 0.7))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills
    assert finish(start(code, backend, tmp_path, killed.name)) == printed
    assert killed.read_bytes() == (tmp_path / "whole.ckpt").read_bytes()


def test_all_are_there():
    assert set(PACKAGES) < set(RECIPES)
    assert len(RECIPES) == 7
