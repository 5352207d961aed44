"""scikit-learn's perceptrons with fastadam patched in."""

import os
import pickle
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.datasets import load_digits  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor, _multilayer_perceptron  # noqa: E402
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer  # noqa: E402

import fastadam.sklearn  # noqa: E402
from fastadam.sklearn import (  # noqa: E402
    is_sklearn_patched,
    patch_sklearn,
    patched_sklearn,
    unpatch_sklearn,
)

X, Y = load_digits(return_X_y=True)
X = X[:400] / 16
Y = Y[:400]
OPTIONS = {"hidden_layer_sizes": (20,), "max_iter": 8, "random_state": 0}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
    assert _multilayer_perceptron.AdamOptimizer is not fastadam.sklearn.Adam


def weights(model):
    return model.coefs_ + model.intercepts_


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "more", [{}, {"early_stopping": True}, {"alpha": 0.1, "batch_size": 7}, {"beta_1": 0.0}]
)
def test_fits_are_equal_bit_for_bit(cls, more):
    theirs = cls(**OPTIONS, **more).fit(X, Y)
    with patched_sklearn():
        ours = cls(**OPTIONS, **more).fit(X, Y)
    assert isinstance(ours._optimizer, fastadam.sklearn.Adam)
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        assert (a == b).all()
    assert ours.loss_curve_ == theirs.loss_curve_
    assert ours._optimizer.learning_rate == theirs._optimizer.learning_rate


def test_going_on():
    """Warm starts and partial fits, before and after pickling."""
    results = []
    for patch in (False, True):
        model = MLPClassifier(**OPTIONS, warm_start=True)
        if patch:
            patch_sklearn()
        try:
            model.fit(X, Y).fit(X, Y)
            model.partial_fit(X, Y)
            model = pickle.loads(pickle.dumps(model))
            model.partial_fit(X, Y)
        finally:
            unpatch_sklearn()
        results.append(model)
    for a, b in zip(*map(weights, results), strict=True):
        assert (a == b).all()


def test_float32():
    """Close to scikit-learn's."""
    small = X.astype(np.float32)
    theirs = MLPClassifier(**OPTIONS).fit(small, Y)
    with patched_sklearn():
        ours = MLPClassifier(**OPTIONS).fit(small, Y)
        ours.partial_fit(X, Y)  # float64 data
        assert all(w.dtype == np.float32 for w in [*weights(ours), *ours._optimizer.ms])
        ours = MLPClassifier(**OPTIONS).fit(small, Y)
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        assert np.abs(a - b).max() < 1e-5  # some 60 steps of size 1e-3, each rounded differently


def test_float32_without_temporaries(backend):
    """scikit-learn's own takes 24 bytes an element, most of them float64."""
    size = 500_000
    params, grads = [np.ones(size, np.float32)], [np.ones(size, np.float32)]
    optimizer = fastadam.sklearn.Adam(params)
    optimizer.update_params(params, grads)
    tracemalloc.start()
    optimizer.update_params(params, grads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size  # not even one of float32


def test_pickles_do_not_need_fastadam():
    with patched_sklearn():
        model = MLPClassifier(**OPTIONS).fit(X, Y)
    copied = pickle.loads(pickle.dumps(model))
    assert type(model._optimizer) is fastadam.sklearn.Adam
    assert type(copied._optimizer) is AdamOptimizer
    assert b"fastadam" not in pickle.dumps(model)
    for m in (model, copied):
        m.partial_fit(X, Y)
    for a, b in zip(weights(model), weights(copied), strict=True):
        assert (a == b).all()


def test_processes():
    """Other processes train with scikit-learn's own, to the same numbers."""
    alone = cross_val_score(MLPClassifier(**OPTIONS), X, Y, cv=2)
    with patched_sklearn():
        assert (cross_val_score(MLPClassifier(**OPTIONS), X, Y, cv=2, n_jobs=2) == alone).all()


class WithSettings(AdamOptimizer):
    def __init__(self, params, settings):
        super().__init__(params)


class OtherFormula(AdamOptimizer):
    def _get_updates(self, grads):
        return [2 * update for update in super()._get_updates(grads)]


class OtherCall(AdamOptimizer):
    def update_params(self, params, grads, scale=1.0):
        super().update_params(params, grads)


class OtherNames(AdamOptimizer):
    def __getattribute__(self, name):
        if name == "ms":
            raise AttributeError(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("other", [WithSettings, OtherFormula, OtherCall, OtherNames, None])
def test_an_optimizer_that_fastadam_does_not_know(monkeypatch, other):
    if other is None:
        monkeypatch.delattr(_multilayer_perceptron, "AdamOptimizer")
    else:
        monkeypatch.setattr(_multilayer_perceptron, "AdamOptimizer", other)
        monkeypatch.setattr(fastadam.sklearn, "AdamOptimizer", other)
    with pytest.raises(RuntimeError, match=r"scikit-learn [\d.]+ .* nothing was patched"):
        patch_sklearn()
    with pytest.raises(RuntimeError), patched_sklearn():
        pass
    unpatch_sklearn()
    assert getattr(_multilayer_perceptron, "AdamOptimizer", None) is other


def test_the_class_of_somebody_else(monkeypatch):
    monkeypatch.setattr(_multilayer_perceptron, "AdamOptimizer", OtherCall)
    with pytest.raises(RuntimeError):
        patch_sklearn()
    unpatch_sklearn()
    assert _multilayer_perceptron.AdamOptimizer is OtherCall


def test_patching_twice_and_exceptions():
    patch_sklearn()
    patch_sklearn()
    with pytest.raises(ZeroDivisionError), patched_sklearn():
        _ = 1 / 0
    assert _multilayer_perceptron.AdamOptimizer is fastadam.sklearn.Adam
    unpatch_sklearn()
    unpatch_sklearn()


def test_asking_whether_it_is_patched():
    assert not is_sklearn_patched()
    with patched_sklearn():
        assert is_sklearn_patched()
    assert not is_sklearn_patched()
    patch_sklearn()
    assert is_sklearn_patched()
    unpatch_sklearn()
    assert not is_sklearn_patched()


def test_only_public_names_are_listed():
    assert set(dir(fastadam.sklearn)) == {
        "is_sklearn_patched",
        "patch_sklearn",
        "patched_sklearn",
        "unpatch_sklearn",
    }


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import fastadam.sklearn"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "fastadam.sklearn needs scikit-learn: pip install scikit-learn" in result.stderr


def test_scikit_learns_own_tests(backend, tmp_path):
    """Its tests of perceptrons and optimizers, in a process in which its class is ours.

    Some of them are skipped where pandas is not installed.
    """
    code = (
        "import sys, pytest, fastadam.sklearn as ours\n"
        "from sklearn.neural_network import _stochastic_optimizers as theirs\n"
        "def run(name):\n"
        "    module = 'sklearn.neural_network.tests.' + name\n"
        "    return pytest.main(['-q', '-p', 'no:cacheprovider', '--pyargs', module])\n"
        "ours.patch_sklearn()\n"
        "failed = run('test_mlp')\n"
        "theirs.AdamOptimizer = ours.Adam\n"
        "sys.exit(failed or run('test_stochastic_optimizers'))"
    )
    env = {**os.environ, "FASTADAM_BACKEND": "numpy" if backend == "numpy" else "c"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout[-3000:]
