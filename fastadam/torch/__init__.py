"""PyTorch's optimizers for tensors on the CPU, stepped by fastadam.

`Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD` are subclasses of those of
``torch.optim``: constructors, param groups, hooks, schedulers, ``GradScaler("cpu")`` and state
dicts, which load both ways, are torch's. A step is one call of C, in place.

What differs from torch's own:

- Steps follow fastadam's rule, exact to the bit whatever the layout, threads or instruction set.
- The step count in a state is a float64 tensor, which does not stop at 2**24.
- The sparse gradient of an embedding changes only the rows that it has, as
  ``torch.optim.SparseAdam`` does, and their state; those of other rows do not decay.
- Gradients and parameters may have any strides, and they need not be alike. Parameters that
  share memory raise an error.
- ``foreach`` and ``fused`` choose nothing here; ``capturable`` and ``differentiable`` raise an
  error, and so do tensors on other devices or of other dtypes than float32, float64, complex64
  and complex128.
- What a step calls, such as the methods of a gradient of another class than ``torch.Tensor``,
  must not step the optimizer or load state into it: that raises an error.

Of `fastadam.Adam` these optimizers lack `max_grad_norm`, `skip_nonfinite`, `ema_decay` and a
function as `lr`. For these torch has ``torch.nn.utils.clip_grad_norm_``, ``GradScaler``,
``torch.optim.swa_utils.AveragedModel`` and ``torch.optim.lr_scheduler``.

A step uses at most ``torch.get_num_threads()`` and `fastadam.get_num_threads` threads.
"""

from fastadam import _rules

try:
    import torch
except ImportError as error:
    raise ImportError("fastadam.torch needs PyTorch: pip install torch") from error
try:
    from fastadam.torch._optimizer import Optimizer, WithEpsilonHat
except (ImportError, AttributeError) as error:  # some of what it uses is private to torch
    raise ImportError(f"fastadam.torch cannot use PyTorch {torch.__version__}: {error}") from error

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


class Adam(WithEpsilonHat, torch.optim.Adam):
    """``torch.optim.Adam``, stepped by fastadam.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
        As in ``torch.optim.Adam``; so are all methods. ``foreach`` and ``fused`` are ignored.
    epsilon_hat : bool, optional
        Take `eps` as the paper's epsilon-hat, as Keras and scikit-learn do.

    Raises
    ------
    RuntimeError
        ``capturable`` or ``differentiable`` is set.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> import fastadam.torch
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = fastadam.torch.Adam(model.parameters(), lr=0.01)
    >>> model(torch.ones(2, 3)).square().mean().backward()
    >>> optimizer.step()
    """


class AdamW(WithEpsilonHat, torch.optim.AdamW):
    """``torch.optim.AdamW``, stepped by fastadam.

    Parameters, errors and methods are those of `Adam`.

    References
    ----------
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = fastadam.torch.AdamW([w], lr=0.5, weight_decay=0.1)
    >>> w.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> w.data
    tensor([0.9500, 1.9000])
    """


class NAdam(Optimizer, torch.optim.NAdam):
    """``torch.optim.NAdam``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.NAdam([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.NADAM


class RAdam(Optimizer, torch.optim.RAdam):
    """``torch.optim.RAdam``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RAdam([w], lr=0.1)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RADAM


class Adamax(Optimizer, torch.optim.Adamax):
    """``torch.optim.Adamax``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 2.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.Adamax([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.ADAMAX


class RMSprop(Optimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    Centered, it takes ``maximum(square_avg - grad_avg**2, 0)``, where torch's own gives NaN when
    rounding brings the difference below zero.

    References
    ----------
    Tieleman & Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.RMSprop([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.RMSPROP


class SGD(Optimizer, torch.optim.SGD):
    """``torch.optim.SGD``, stepped by fastadam.

    Parameters and methods are torch's, errors those of `Adam`.

    With a momentum, the sparse gradient of an embedding leaves the buffers of other rows as
    they are, where torch's own moves those rows, too.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = fastadam.torch.SGD([w], lr=0.01)
    >>> for _ in range(200):
    ...     w.grad = 2 * w.data
    ...     optimizer.step()
    >>> bool(w.abs().max() < 0.1)
    True
    """

    _rule = _rules.SGD
