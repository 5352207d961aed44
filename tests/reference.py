"""Two oracles, written from the documents and not from the code under test."""

import decimal
import math

import numpy as np


def rule(p, g, m, v, vmax, t, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
         decoupled=False, maximize=False, epsilon_hat=False, loss_scale=1.0):  # fmt: skip
    """The rule of the README on whole arrays; returns new p, m, v, vmax."""
    real = p.dtype.type
    b1, b2 = real(betas[0]), real(betas[1])
    correction1, correction2 = 1 - float(b1) ** t, 1 - float(b2) ** t
    if epsilon_hat:
        step_size, root = real(lr * math.sqrt(correction2) / correction1), real(1)
    else:
        step_size, root = real(lr / correction1), real(1 / math.sqrt(correction2))
    smallest = np.finfo(p.dtype).smallest_normal
    with np.errstate(all="ignore"):
        g = g * real((-1 if maximize else 1) / loss_scale)
        if weight_decay and not decoupled:
            g = g + real(weight_decay) * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g * g)
        m = np.where(np.abs(m) < smallest, real(0), m)
        v = np.where(np.abs(v) < smallest, real(0), v)
        s = v
        if vmax is not None:
            s = vmax = np.maximum(vmax, v)
        denom = np.sqrt(s) * root + real(eps)
        keep = real(1 - lr * weight_decay if decoupled else 1)
        return p * keep - (step_size * m) / denom, m, v, vmax


def paper(p, grads, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False,
          amsgrad=False, maximize=False, epsilon_hat=False, number=decimal.Decimal):  # fmt: skip
    """Adam (arXiv:1412.6980, algorithm 1) for one number, step by step.

    With decoupled decay of arXiv:1711.05101 (algorithm 2, schedule multiplier lr)
    and the maximum of arXiv:1904.09237; torch.optim, and so this, divides by the
    bias-corrected maximum. `number` does the arithmetic.
    """
    p, lr, eps, weight_decay = number(p), number(lr), number(eps), number(weight_decay)
    b1, b2 = map(number, betas)
    m = v = vmax = number(0)
    for t, grad in enumerate(grads, 1):
        g = -number(grad) if maximize else number(grad)
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        vmax = max(vmax, v)
        second = vmax if amsgrad else v
        if epsilon_hat:
            root = (1 - b2**t) ** number("0.5")
            p = p - lr * root / (1 - b1**t) * m / (second ** number("0.5") + eps)
        else:
            corrected = (second / (1 - b2**t)) ** number("0.5")
            p = p - lr * (m / (1 - b1**t)) / (corrected + eps)
    return p


def bits(array):
    """An array's bytes. IEEE 754 leaves the bits of a NaN open, so all NaNs are made one."""
    array = np.array(array)
    if array.dtype.kind == "c":
        array = array.reshape(-1).view(array.real.dtype)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.tobytes()
