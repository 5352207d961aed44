"""PyTorch's optimizers for tensors on the CPU, stepped by fastadam.

`Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `RMSprop` and `SGD` are subclasses of those of
``torch.optim``: constructors, param groups, hooks, schedulers, ``GradScaler("cpu")`` and state
dicts, which load both ways, are torch's. A step is one call of C, in place.

`ADOPT`, `AdamWScheduleFree`, `Lion` and `AdEMAMix`, which torch lacks, are used in the same way.
Their options are those of the classes for arrays, but for what the table below has; `foreach`
and the like they do not take. State dicts load from other packages, and to them with
``state_dict(decoded=True)``:

=================== ==============================================================
here                there
=================== ==============================================================
`ADOPT`             pytorch_optimizer, and the authors' program
`AdamWScheduleFree` schedulefree
`Lion`              lion_pytorch
`AdEMAMix`          pytorch_optimizer, and the authors' program
=================== ==============================================================

What differs from torch's own:

- Steps follow fastadam's rule, exact to the bit whatever the layout, threads or instruction set.
- The step count in a state is a float64 tensor, which does not stop at 2**24.
- The sparse gradient of an embedding changes only the rows that it has, as
  ``torch.optim.SparseAdam`` does, and their state; those of other rows do not decay.
  ``SparseAdam`` places epsilon as ``epsilon_hat=True`` does.
- Gradients and parameters may have any strides, and they need not be alike. Parameters that
  share memory raise an error.
- ``foreach`` and ``fused`` choose nothing here; ``capturable`` and ``differentiable`` raise an
  error.
- The options of param groups and of loaded state dicts are checked when they come, as those of
  the constructor are.
- Parameters must be on the CPU, and float32, float64, complex64, complex128, bfloat16 or float16.
  Others raise an error when the optimizer is made and when a group is added, unless they require
  no gradient: a step leaves out what has none.
- Parameters in half precision are stepped in float32, and are what that gives, rounded. The state
  of a bfloat16 one has the 16 bits that it lacks, as ``"param_remainder"``, and that of a float16
  one has the float32 numbers, as ``"master_param"``. What is written into a parameter between
  steps counts. Gradients are of the parameter's dtype, or of another one of float32, bfloat16 and
  float16 (torch lets a gradient have that where ``Parameter.grad_dtype`` is set so).
- With `state_dtype` the moments take fewer bytes. What the state has then, and how others get
  plain numbers, ``state_dict(decoded=True)``, is said at `Adam.state_dict`.
- `load_state_dict` keeps the counts and what half precision lacks as they were saved, and stores
  moments as the optimizer's own `state_dtype` says. torch's casts all to the parameter's dtype.
- What a step calls, such as the methods of a gradient of another class than ``torch.Tensor``,
  must not step the optimizer or load state into it: that raises an error.

Some things that `fastadam.Adam` has are lacking here. In their place torch has:

================================ ============================================================
`fastadam.Adam`                  here
================================ ============================================================
`max_grad_norm`                  ``torch.nn.utils.clip_grad_norm_``, before the step
`skip_nonfinite`, `loss_scale`   ``torch.amp.GradScaler("cpu")``
`ema_decay`                      ``torch.optim.swa_utils.AveragedModel``, with a
                                 ``multi_avg_fn`` from ``get_ema_multi_avg_fn``
a function as `lr`               ``torch.optim.lr_scheduler``
`accumulate`                     several ``backward()`` before a step
================================ ============================================================

`fastadam.Adam` and its family load the state dicts of these classes and of torch's. In the other
direction, torch asks for tensors, so the arrays in the state dict must be made tensors first::

    for entry in state_dict["state"].values():
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                entry[name] = torch.from_numpy(value)

If moments are stored in fewer bits, these classes take them as they are; for torch's own, let
``state_dict(decoded=True)`` give plain numbers.

A step uses at most ``torch.get_num_threads()`` and `fastadam.get_num_threads` threads.
"""

try:
    import torch
except ImportError as error:
    raise ImportError("fastadam.torch needs PyTorch: pip install torch") from error
try:
    from fastadam.torch.family.adam import Adam, AdamW
    from fastadam.torch.family.adamax import Adamax
    from fastadam.torch.family.ademamix import AdEMAMix
    from fastadam.torch.family.adopt import ADOPT
    from fastadam.torch.family.lion import Lion
    from fastadam.torch.family.nadam import NAdam
    from fastadam.torch.family.radam import RAdam
    from fastadam.torch.family.rmsprop import RMSprop
    from fastadam.torch.family.schedule_free import AdamWScheduleFree
    from fastadam.torch.family.sgd import SGD
except (ImportError, AttributeError) as error:  # some of what they use is private to torch
    raise ImportError(f"fastadam.torch cannot use PyTorch {torch.__version__}: {error}") from error

__all__ = [
    "ADOPT",
    "SGD",
    "AdEMAMix",
    "Adam",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
]
