"""The other ways to do one Adam step that the benchmarks compare with."""

import math

import numpy as np


class PurePython:
    """A loop over lists of floats."""

    def __init__(self, p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.p = p.tolist()
        self.m, self.v = [0.0] * len(self.p), [0.0] * len(self.p)
        self.lr, self.betas, self.eps, self.t = lr, betas, eps, 0

    def step(self, grad):
        self.t += 1
        b1, b2 = self.betas
        c1, c2 = 1 - b1**self.t, 1 - b2**self.t
        p, m, v = self.p, self.m, self.v
        for i, g in enumerate(grad):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            p[i] -= self.lr * (m[i] / c1) / (math.sqrt(v[i] / c2) + self.eps)


class Textbook:
    """Algorithm 1 of arXiv:1412.6980, one NumPy expression a line."""

    def __init__(self, p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.p, self.m, self.v = p, np.zeros_like(p), np.zeros_like(p)
        self.lr, self.betas, self.eps, self.t = lr, betas, eps, 0

    def step(self, grad):
        self.t += 1
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * grad
        self.v = b2 * self.v + (1 - b2) * grad**2
        m_hat = self.m / (1 - b1**self.t)
        v_hat = self.v / (1 - b2**self.t)
        self.p -= self.lr * m_hat / (np.sqrt(v_hat) + self.eps)
