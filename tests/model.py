"""What an optimizer should be after any calls: the oracle of test_stateful.py.

It keeps plain copies of all arrays and steps them one by one, with the rules of fastadam._rules
(which test_rule.py and test_family.py compare with the papers). Of layouts, nestings, backends,
groups of jobs and files it knows nothing. Gradients are multiples of 1/4, so that all sums of
their squares are exact and their norm has the same bits in any order.
"""

import copy
import math

import numpy as np

from fastadam import _hyper
from fastadam._rules.rule import Block, Scalars, step_blocks


class Array:
    """A parameter with its state, in C order."""

    def __init__(self, rule, param, options, averaged):
        self.param = np.array(param, order="C")
        kept = rule.kept(options)
        self.state = {name: np.zeros_like(self.param) for name in kept}
        self.average = self.param.copy() if averaged else None
        self.step, self.numbers = 0, rule.first_numbers

    def rows(self, rows):
        """Copies of some rows of all that there is."""
        part = copy.copy(self)
        part.param = self.param[rows]
        part.state = {name: array[rows] for name, array in self.state.items()}
        return part


class Model:
    """All that can be seen of an optimizer."""

    def __init__(self, member, clip, skip, ema_decay):
        self.rule = member._rule
        self.clip, self.skip, self.ema_decay = clip, skip, ema_decay
        self.arrays, self.groups, self.options = [], [], []
        self.finished = self.skipped = 0
        self.norm = math.nan
        self.kept = []  # what accumulate got

    def copy(self):
        """Another one that does not change with this."""
        other = copy.copy(self)
        other.arrays = copy.deepcopy(self.arrays)
        other.options = [dict(options) for options in self.options]
        return other

    def add(self, params, options):
        """A group; the options are those of the optimizer's own."""
        averaged = self.ema_decay is not None
        self.arrays += [Array(self.rule, p, options, averaged) for p in params]
        self.groups += [len(self.options)] * len(params)
        self.options.append(dict(options))

    def step(self, grads, loss_scale=1.0):
        """Gradients are None, arrays, or pairs of rows and values."""
        grads = [merged(g) if isinstance(g, tuple) else g for g in grads]
        given = [g[1] if isinstance(g, tuple) else g for g in grads if g is not None]
        clip = 1.0
        if self.clip is not None or self.skip:
            squares = sum(float(np.sum(real(g).astype(float) ** 2)) for g in given)
            self.norm = math.sqrt(squares) / loss_scale
            if self.clip is not None:
                clip = self.clip / (self.norm + 1e-6)
                clip = 1.0 if clip > 1 else clip
            if self.skip and not math.isfinite(self.norm):
                self.skipped += 1
                return
        hypers, lrs = [], []
        for options in self.options:
            traits = _hyper.Traits(self.rule.options, False, ema_decay=self.ema_decay or 0.0)
            hypers.append(_hyper.check_options(options, traits))
            lrs.append(_hyper.lr_now(hypers[-1], self.finished, traits))
        for array, group, grad in zip(self.arrays, self.groups, grads, strict=True):
            if grad is None:
                continue
            k = Scalars(self.rule, hypers[group], real(array.param).dtype)
            array.step += 1
            k.make_for(lrs[group], clip / loss_scale, array.step, array.numbers)
            array.numbers = k.numbers
            if isinstance(grad, tuple):
                rows, values = grad
                part = array.rows(rows)
                self.step_one(k, part, values)
                array.param[rows] = part.param
                for name, changed in part.state.items():
                    array.state[name][rows] = changed
            else:
                self.step_one(k, array, grad)
        self.finished += 1

    def step_one(self, k, array, grad):
        if not array.param.size:
            return
        p = real(array.param)
        states = [array.state.get(name) for name in self.rule.states]
        states = tuple(None if s is None else real(s) for s in states)
        average = None if array.average is None else real(array.average)
        scratch = tuple(np.empty_like(p) for _ in range(3))
        block = Block(slice(0, p.size), p, states, average, scratch)
        with np.errstate(all="ignore"):
            step_blocks(k, real(grad), [block])

    def step_mean(self, loss_scale=1.0):
        """A step on what was kept."""
        means = []
        for i, array in enumerate(self.arrays):
            own = [grads[i] for grads in self.kept if grads[i] is not None]
            total = None
            for grad in own:
                whole = grad
                if isinstance(grad, tuple):
                    whole = np.zeros_like(array.param)
                    np.add.at(whole, *grad)
                total = whole.copy() if total is None else total + whole
            if total is not None:
                with np.errstate(all="ignore"):
                    total = total / len(self.kept)
                if all(isinstance(grad, tuple) for grad in own):
                    rows = np.unique(np.concatenate([grad[0] for grad in own]))
                    total = rows, total[rows]
            means.append(total)
        self.step(means, loss_scale)
        self.kept = []

    def loaded(self, other, with_params):
        """What another model was, but for what is not saved."""
        for mine, theirs in zip(self.arrays, copy.deepcopy(other.arrays), strict=True):
            param = theirs.param if with_params else mine.param
            vars(mine).update(vars(theirs), param=param)
        for mine, theirs in zip(self.options, other.options, strict=True):
            mine.update(theirs)
        self.finished, self.skipped, self.norm = other.finished, other.skipped, math.nan
        self.kept = []


def real(array):
    """An array's numbers as a vector of real ones; of what lies in C order, a view."""
    vector = np.ascontiguousarray(array).reshape(-1)
    return vector.view(vector.real.dtype) if vector.dtype.kind == "c" else vector


def merged(grad):
    """Rows and values, of which no two are of the same row."""
    rows, values = grad
    each = np.unique(rows)
    total = np.zeros((len(each), *values.shape[1:]), values.dtype)
    np.add.at(total, np.searchsorted(each, rows), values)
    return each, total
