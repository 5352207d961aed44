"""scikit-learn's multi-layer perceptrons, trained with fastadam.

After `patch_sklearn`, ``MLPClassifier`` and ``MLPRegressor`` with ``solver="adam"`` step
with fastadam; nothing else changes. In float64 results are equal bit for bit to
scikit-learn's own (unless moments become subnormal: fastadam sets them to zero); float32
stays float32, where scikit-learn's makes float64 temporaries. Its expression is Adam with
the paper's epsilon-hat, arXiv:1412.6980, section 2.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastadam.functional import adam_step

try:
    from sklearn import __version__ as sklearn_version
except ImportError as error:
    raise ImportError("fastadam.sklearn needs scikit-learn: pip install scikit-learn") from error

UNKNOWN = (
    f"scikit-learn {sklearn_version} has no AdamOptimizer that fastadam knows; nothing was patched"
)
try:
    from sklearn.neural_network import _multilayer_perceptron as mlp
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
except ImportError as error:
    raise ImportError(UNKNOWN) from error

__all__ = ["is_sklearn_patched", "patch_sklearn", "patched_sklearn", "unpatch_sklearn"]


def __dir__() -> list[str]:
    return __all__


class Adam(AdamOptimizer):
    """scikit-learn's AdamOptimizer, with its steps done by `fastadam.adam_step`."""

    t: int

    def __reduce__(self) -> tuple[Any, ...]:
        """As scikit-learn's own, so that a fitted model loads where fastadam is not installed."""
        return object.__new__, (AdamOptimizer,), self.__dict__

    def update_params(self, params: list[Any], grads: list[Any]) -> None:
        """Change the parameters in place; see scikit-learn's."""
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1):
            super().update_params(params, grads)  # a test of scikit-learn's has beta_2 = 1
            return
        step = self.t + 1
        adam_step(
            params,
            # float64 data of a float32 model give float64 gradients
            [g.astype(p.dtype, copy=False) for p, g in zip(params, grads, strict=True)],
            self.ms,
            self.vs,
            step=step,
            lr=self.learning_rate_init,
            betas=(self.beta_1, self.beta_2),
            eps=self.epsilon,
            epsilon_hat=True,
        )
        self.t = step
        self.learning_rate = (
            self.learning_rate_init * np.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        )


def patch_sklearn() -> None:
    """Let scikit-learn's perceptrons with ``solver="adam"`` train with fastadam.

    This holds for the whole process, with its threads, and for no other one: joblib's worker
    processes train with scikit-learn's own optimizer. Models that are being trained keep the
    optimizer that they have. A fitted model is pickled with scikit-learn's own.

    Raises
    ------
    RuntimeError
        This version of scikit-learn does not make or step its optimizer as those do that
        fastadam knows; nothing is patched.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> import fastadam.sklearn
    >>> fastadam.sklearn.patch_sklearn()
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(random_state=0, max_iter=5000, tol=1e-6).fit(x, x[:, 0] ** 2)
    >>> bool(model.score(x, x[:, 0] ** 2) > 0.9)
    True
    >>> fastadam.sklearn.unpatch_sklearn()
    """
    if getattr(mlp, "AdamOptimizer", None) not in (AdamOptimizer, Adam) or not _is_known():
        raise RuntimeError(UNKNOWN)
    mlp.AdamOptimizer = Adam


def _is_known() -> bool:
    """Whether scikit-learn's optimizer is made, called and updated as fastadam's."""
    called = list(inspect.signature(AdamOptimizer.update_params).parameters)
    if called != ["self", "params", "grads"]:
        return False
    results = []
    for cls in (AdamOptimizer, Adam):
        param = np.array([1.0, -2.0])
        try:
            optimizer = cls([param], 0.1, 0.8, 0.9, 1e-3)
            for grad in ([0.5, 1.0], [-2.0, 3.0]):
                optimizer.update_params([param], [np.array(grad)])
            results.append((*param, *optimizer.ms[0], *optimizer.vs[0], optimizer.t))
        except (AttributeError, IndexError, TypeError):
            return False
    return results[0] == results[1]


def unpatch_sklearn() -> None:
    """Train with scikit-learn's own optimizer again. See `patch_sklearn`."""
    if is_sklearn_patched():
        mlp.AdamOptimizer = AdamOptimizer


def is_sklearn_patched() -> bool:
    """Whether models whose training begins now are trained with fastadam.

    Examples
    --------
    >>> import fastadam.sklearn
    >>> with fastadam.sklearn.patched_sklearn():
    ...     fastadam.sklearn.is_sklearn_patched()
    True
    >>> fastadam.sklearn.is_sklearn_patched()
    False
    """
    return getattr(mlp, "AdamOptimizer", None) is Adam


@contextmanager
def patched_sklearn() -> Iterator[None]:
    """`patch_sklearn` for the time of a `with` block.

    The patch is the whole process's, so blocks of several threads must not overlap.

    Raises
    ------
    RuntimeError
        As `patch_sklearn`.

    Examples
    --------
    >>> import fastadam.sklearn
    >>> with fastadam.sklearn.patched_sklearn():
    ...     pass  # fit models here
    """
    before = getattr(mlp, "AdamOptimizer", None)
    patch_sklearn()
    try:
        yield
    finally:
        mlp.AdamOptimizer = before
