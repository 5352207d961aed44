"""scikit-learn's multi-layer perceptrons, trained with fastadam.

After `patch_sklearn`, ``MLPClassifier`` and ``MLPRegressor`` with ``solver="adam"`` step
with fastadam; nothing else changes. In float64 results are equal bit for bit to
scikit-learn's own; float32 stays float32, where scikit-learn's makes float64 temporaries.
Its expression is Adam with the paper's epsilon-hat, arXiv:1412.6980, section 2.
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
    from sklearn.neural_network import _multilayer_perceptron as mlp
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
except ImportError as error:
    raise ImportError("fastadam.sklearn needs scikit-learn: pip install scikit-learn") from error

__all__ = ["Adam", "patch_sklearn", "patched_sklearn", "unpatch_sklearn"]


class Adam(AdamOptimizer):
    """scikit-learn's AdamOptimizer, with its steps done by `fastadam.adam_step`.

    Parameters, attributes and methods are scikit-learn's.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, section 2.

    Examples
    --------
    >>> import fastadam.sklearn
    >>> w = np.array([1.0, -1.0])
    >>> optimizer = fastadam.sklearn.Adam([w], learning_rate_init=0.5)
    >>> optimizer.update_params([w], [2 * w])
    >>> w.round(6)
    array([ 0.5, -0.5])
    """

    t: int

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

    Models that are being trained keep the optimizer that they have.

    Raises
    ------
    RuntimeError
        This version of scikit-learn builds its optimizer in another way than those that
        fastadam knows; nothing is patched.

    Examples
    --------
    >>> from sklearn.neural_network import MLPRegressor
    >>> import fastadam.sklearn
    >>> fastadam.sklearn.patch_sklearn()
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(random_state=0, max_iter=5000, tol=1e-6).fit(x, x[:, 0] ** 2)
    >>> bool(model.score(x, x[:, 0] ** 2) > 0.9)
    True
    >>> fastadam.sklearn.unpatch_sklearn()
    """
    expected = ["params", "learning_rate_init", "beta_1", "beta_2", "epsilon"]
    found = list(inspect.signature(AdamOptimizer).parameters)
    probe = AdamOptimizer([np.zeros(1)]) if found == expected else None
    if getattr(mlp, "AdamOptimizer", None) not in (AdamOptimizer, Adam) or not all(
        hasattr(probe, name) for name in ("t", "ms", "vs", "learning_rate_init", "update_params")
    ):
        raise RuntimeError(
            f"scikit-learn {sklearn_version} has no AdamOptimizer that fastadam knows; "
            "nothing was patched"
        )
    mlp.AdamOptimizer = Adam


def unpatch_sklearn() -> None:
    """Train with scikit-learn's own optimizer again. See `patch_sklearn`."""
    mlp.AdamOptimizer = AdamOptimizer


@contextmanager
def patched_sklearn() -> Iterator[None]:
    """`patch_sklearn` for the time of a `with` block.

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
    before = mlp.AdamOptimizer
    patch_sklearn()
    try:
        yield
    finally:
        mlp.AdamOptimizer = before
