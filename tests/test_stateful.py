"""Any calls, right and wrong ones, in any order, against the plain model of model.py.

FASTADAM_TEST_EXAMPLES is how many series of calls each backend gets, and if set, other ones at
each run. A failing series is printed as a program.
"""

import copy
import importlib.util
import inspect
import os
import pickle
import tempfile
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from members import BY_NAME, NAMES, averaging
from model import Model
from reference import bits

import fastadam
from fastadam import RowGrad, schedules

EXAMPLES = os.environ.get("FASTADAM_TEST_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 40),
    stateful_step_count=25,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
)
SUFFIXES = ["", ".safetensors"] if importlib.util.find_spec("safetensors") else [""]
ERRORS = (TypeError, ValueError, KeyError)


@dataclass(frozen=True)
class Leaf:
    """An array: what it looks like, not what is in it."""

    dtype: type
    shape: tuple
    layout: str


LAYOUTS = st.sampled_from(["C", "F", "strided", "reversed", "unaligned", "column"])
DTYPES = st.sampled_from([np.float32, np.float64, np.complex64, np.complex128])
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (3, 0), (4, 2, 2), (17,), (1200,)])
KEYS = st.sampled_from(["a", "b", "W.0", 0, 7])
NESTS = st.recursive(
    st.builds(Leaf, DTYPES, SHAPES, LAYOUTS),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
    ),
    max_leaves=4,
)
SEEDS = st.integers(0, 2**32)


def laid_out(values, layout):
    """The values in another place and order of memory."""
    if layout == "F":
        return np.array(values, order="F")
    if layout == "reversed" and values.ndim:
        return values[::-1].copy()[::-1]
    if layout == "strided":
        wide = np.zeros((*values.shape, 2), values.dtype)
        wide[..., 1] = values
        return wide[..., 1]
    if layout == "column" and values.ndim > 1:
        return np.moveaxis(np.moveaxis(values, 0, -1).copy(), -1, 0)
    if layout == "unaligned":
        memory = bytearray(b"\0" + values.tobytes())
        return np.frombuffer(memory, values.dtype, values.size, 1).reshape(values.shape)
    return values.copy()


def quarters(rng, like):
    """Multiples of 1/4, the squares of which have exact sums."""
    real = rng.integers(-40, 41, like.shape) / 4
    return np.asarray(real + 1j * rng.integers(-40, 41, like.shape) / 4 if like.dtype.kind == "c"
                      else real).astype(like.dtype)  # fmt: skip


def each(nest, found):
    """The nesting with what `found` makes of each leaf in its place."""
    if isinstance(nest, dict):
        return {key: each(child, found) for key, child in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(each(child, found) for child in nest)
    return found(nest)


def leaves(nest):
    found = []
    each(nest, found.append)
    return found


def filled(nest, values):
    """The nesting with these leaves, in order."""
    values = iter(values)
    return each(nest, lambda _: next(values))


def schedule(finished):
    return 0.5 / (1 + finished)


LRS = st.sampled_from([0.0, 0.125, 1, np.float32(0.5), schedule, schedules.linear(1.0, 0.0, 5)])
DECAYS = st.sampled_from([0.0, 0.0, 0.25])
BETAS = st.sampled_from([(0.9, 0.999), (0.0, 0.5), [0.5, 0.0]])
#: All options of all members.
OPTIONS = {
    "lr": LRS, "weight_decay": DECAYS, "betas": BETAS, "eps": st.sampled_from([1e-8, 1.0]),
    "momentum_decay": st.sampled_from([0.0, 0.004]), "alpha": st.sampled_from([0.99, 0.5]),
    "momentum": st.sampled_from([0.0, 0.5]), "dampening": st.sampled_from([0.0, 0.5]),
    "clip": st.sampled_from([None, 0.25]), "t_alpha": st.sampled_from([None, 3]),
    "t_beta3": st.sampled_from([None, 2.5]), "warmup_steps": st.sampled_from([0, 2]),
    "r": st.sampled_from([0.0, 1.5]), "weight_lr_power": st.sampled_from([2.0, 0.0]),
    "state_dtype": st.none(), "seed": st.just(0),
}  # fmt: skip
for flag in (
    "maximize",
    "amsgrad",
    "epsilon_hat",
    "decoupled_weight_decay",
    "centered",
    "nesterov",
):
    OPTIONS[flag] = st.booleans()
#: What each refuses to step, and so does the whole step.
BAD_OPTIONS = [
    ("lr", -1.0), ("lr", "0.1"), ("lr", np.nan), ("weight_decay", np.inf), ("maximize", 1),
    ("lr", lambda finished: -1.0), ("lr", lambda finished: 1 / 0), ("lr", lambda finished: None),
    ("params", ()),
]  # fmt: skip


class Bad:
    """A gradient that raises when it is to become an array."""

    def __array__(self, dtype=None, copy=None):
        raise ValueError("no array")


class Calls:
    """A gradient that becomes an array, and calls something then."""

    def __init__(self, values, call):
        self.values, self.call = values, call

    def __array__(self, dtype=None, copy=None):
        self.call()
        return self.values


class Key(str):
    """A dict's key that is equal to another one, but raises when it is asked."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        raise ValueError("no key")


def betas_of(options):
    """The betas that were drawn, as far as a member with such options takes them."""
    betas = options["betas"]
    if "t_beta3" in options:
        return (*betas, 0.875)
    return (0.5, betas[1]) if "warmup_steps" in options and betas[0] == 0 else betas


class Machine(RuleBasedStateMachine):
    """An optimizer and its model."""

    @initialize(data=st.data(), name=st.sampled_from(NAMES), seed=SEEDS)
    def make(self, data, name, seed):
        member = getattr(fastadam, name)
        self.rng = np.random.default_rng(seed)
        self.folder = tempfile.TemporaryDirectory()
        self.saved, self.files = [], []
        options = self.draw_options(data, member)
        clip = data.draw(st.sampled_from([None, None, 4.0]))
        ema = data.draw(st.sampled_from([None, None, 0.5]))
        if BY_NAME[name].averages_itself:
            ema = None
        skip = data.draw(st.booleans())
        settings = {"max_grad_norm": clip, "skip_nonfinite": skip, **averaging(name, ema)}
        self.model = Model(member, clip, skip, ema)
        self.grouped = data.draw(st.booleans())
        self.nests = []
        groups = []
        for _ in range(data.draw(st.integers(1, 2)) if self.grouped else 1):
            self.nests.append(each(data.draw(NESTS), self.new_array))
            own = self.draw_options(data, member) if self.grouped else {}
            groups.append({"params": self.nests[-1], **own})
        try:
            params = groups if self.grouped else self.nests[0]
            self.opt = member(params, **options, **settings)
        except ValueError as error:
            assume("same key" not in str(error))
            raise
        for nest, group in zip(self.nests, groups, strict=True):
            own = {**self.opt.defaults, **group}
            del own["params"]
            self.model.add(leaves(nest), own)

    def draw_options(self, data, member):
        names = inspect.signature(member).parameters.keys() & member(np.zeros(1)).defaults.keys()
        options = data.draw(st.fixed_dictionaries({name: OPTIONS[name] for name in sorted(names)}))
        if "betas" in options:
            options["betas"] = betas_of(options)
        if options.get("nesterov"):
            options |= {"momentum": 0.5, "dampening": 0.0}  # which it needs
        return options

    def new_array(self, leaf):
        like = np.zeros(leaf.shape, leaf.dtype)
        return laid_out(quarters(self.rng, like), leaf.layout)

    @property
    def params(self):
        return [leaf for nest in self.nests for leaf in leaves(nest)]

    def nested(self, grads):
        """Gradients, nested as the parameters are."""
        grads = iter(grads)
        nests = [each(nest, lambda _: next(grads)) for nest in self.nests]
        return nests if self.grouped else nests[0]

    def draw_grads(self, data, wrap=lambda grad: grad):
        """Gradients as the optimizer gets them, and as the model does."""
        rng = np.random.default_rng(data.draw(SEEDS))
        given, plain = [], []
        for param, group in zip(self.params, self.model.groups, strict=True):
            kind = data.draw(st.sampled_from(["array", "array", "none", "rows", "param"]))
            whole = quarters(rng, param)
            decay = self.model.options[group]["weight_decay"]
            lazy = decay == 0 and self.model.ema_decay is None and param.flags.c_contiguous
            lazy = lazy and not self.model.rule.needs_all_rows
            measures = self.model.clip is not None or self.model.skip
            if kind == "none":
                given.append(None)
                plain.append(None)
            elif kind == "rows" and lazy and param.ndim and param.flags.aligned:
                rows = rng.integers(0, max(len(param), 1), rng.integers(0, 5) if len(param) else 0)
                values = quarters(rng, np.zeros((len(rows), *param.shape[1:]), param.dtype))
                given.append(RowGrad(rows, values))
                plain.append((rows, values))
            elif kind == "param" and not measures and not self.model.kept:
                given.append(param)
                plain.append(param.copy())
            else:
                if self.model.skip and whole.size and data.draw(st.integers(0, 15)) == 0:
                    whole.flat[0] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
                given.append(wrap(laid_out(whole, data.draw(LAYOUTS))))
                plain.append(whole)
        given = self.nested(given)
        assume(given is not None)
        return given, plain

    def refused(self, call):
        """The call raises; that nothing was changed, the invariant looks at."""
        with pytest.raises(ERRORS):
            call()

    # What steps.

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data(), loss_scale=st.sampled_from([1.0, 1, 2.0, 0.5]))
    def step(self, data, loss_scale):
        given, plain = self.draw_grads(data)
        self.opt.step(given, loss_scale=loss_scale)
        self.model.step(plain, loss_scale)

    @precondition(lambda self: len(self.model.kept) < 4)
    @rule(data=st.data())
    def accumulate(self, data):
        given, plain = self.draw_grads(data)
        self.opt.accumulate(given)
        self.model.kept.append(plain)

    # A third of a multiple of 1/4 has a square that is not exact.
    @precondition(lambda self: len(self.model.kept) in (1, 2, 4))
    @rule(loss_scale=st.sampled_from([1.0, 2.0]))
    def step_mean(self, loss_scale):
        self.opt.step(loss_scale=loss_scale)
        self.model.step_mean(loss_scale)

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data())
    def step_with_a_callback_that_uses_the_optimizer(self, data):
        """What a step or an accumulate calls is refused, and the step goes on."""
        state = self.opt.state_dict()
        more = {"params": np.zeros(2)}
        uses = [
            lambda: self.opt.step(given), self.opt.step, self.opt.state_dict,
            lambda: self.opt.accumulate(given), lambda: self.opt.load_state_dict(state),
            lambda: self.opt.add_param_group(more), lambda: copy.deepcopy(self.opt),
            lambda: self.opt.save(os.path.join(self.folder.name, "no.ckpt")),
        ]  # fmt: skip
        use = data.draw(st.sampled_from(uses))

        def call(*_):
            try:
                use()
            except RuntimeError:
                return 0.25
            raise AssertionError("a step's callback used its optimizer")

        if data.draw(st.booleans()):
            given, plain = self.draw_grads(data, lambda grad: Calls(grad, call))
        else:
            given, plain = self.draw_grads(data)
            self.opt.param_groups[0]["lr"] = self.model.options[0]["lr"] = call
        self.opt.step(given)
        old, self.model.options[0]["lr"] = self.model.options[0]["lr"], 0.25
        if old is not call:
            self.model.options[0]["lr"] = old
        self.model.step(plain)
        self.opt.param_groups[0]["lr"] = self.model.options[0]["lr"]

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data())
    def step_with_a_callback_that_edits(self, data):
        """The options of a step are read before its gradients; the next one has the new ones."""
        given, plain = self.draw_grads(
            data, lambda grad: Calls(grad, lambda: self.opt.param_groups[0].update(lr=0.75))
        )
        self.opt.step(given)
        self.model.step(plain)
        self.model.options[0]["lr"] = self.opt.param_groups[0]["lr"] = 0.75

    # What changes the optimizer otherwise.

    @rule(data=st.data())
    def edit(self, data):
        i = data.draw(st.integers(0, len(self.model.options) - 1))
        name = data.draw(st.sampled_from(["lr", "weight_decay", "maximize", "betas"]))
        if name in self.model.options[i]:
            strategies = {"lr": LRS, "weight_decay": DECAYS, "betas": BETAS}
            value = data.draw(strategies.get(name, st.booleans()))
            if name == "betas":
                value = betas_of({**self.model.options[i], name: value})
            decayed = name == "weight_decay" and value
            assume(not (decayed and any(isinstance(g, tuple) for k in self.model.kept for g in k)))
            self.opt.param_groups[i][name] = value
            self.model.options[i][name] = value

    @rule(data=st.data())
    def write_into_a_parameter(self, data):
        i = data.draw(st.integers(0, len(self.params) - 1))
        values = quarters(self.rng, self.params[i])
        self.params[i][...] = values
        self.model.arrays[i].param[...] = values

    @precondition(lambda self: self.grouped and len(self.nests) < 4)
    @rule(data=st.data(), nest=NESTS)
    def add(self, data, nest):
        nest = each(nest, self.new_array)
        own = self.draw_options(data, type(self.opt))
        try:
            self.opt.add_param_group({"params": nest, **own})
        except ValueError as error:
            assume("same key" not in str(error))
            raise
        self.nests.append(nest)
        self.model.add(leaves(nest), {**self.opt.defaults, **own})
        for grads in self.model.kept:
            grads += [None] * len(leaves(nest))
        self.saved, self.files = [], []

    @rule()
    def take_state(self):
        self.saved.append((self.opt.state_dict(), self.model.copy()))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def load_state(self, data):
        state, model = data.draw(st.sampled_from(self.saved))
        self.opt.load_state_dict(state)
        self.model.loaded(model, with_params=False)

    @rule(suffix=st.sampled_from(SUFFIXES), params=st.booleans())
    def save(self, suffix, params):
        path = os.path.join(self.folder.name, f"{len(self.files)}{suffix}")
        self.opt.save(path, params=params, rng=self.rng)
        self.files.append((path, params, self.model.copy()))

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def load(self, data):
        path, params, model = data.draw(st.sampled_from(self.files))
        now = [options["lr"] for options in self.model.options]
        saved = [options["lr"] for options in model.options]
        if list(map(callable, now)) != list(map(callable, saved)):
            self.refused(lambda: self.opt.load(path, rng=self.rng))
            return
        self.opt.load(path, rng=[])
        self.model.loaded(model, with_params=params)
        for options, lr in zip(self.model.options, now, strict=True):
            options["lr"] = lr if callable(lr) else options["lr"]

    @rule(way=st.sampled_from(["deepcopy", "pickle"]))
    def copy(self, way):
        """The copy goes on in the optimizer's place, and that one no longer matters."""
        old = self.params
        if way == "deepcopy":
            self.opt = copy.deepcopy(self.opt)
        else:
            try:
                self.opt = pickle.loads(pickle.dumps(self.opt))
            except (AttributeError, pickle.PicklingError):  # a function within a rule
                return
        self.nests = list(self.opt.params) if self.grouped else [self.opt.params]
        assert not any(np.shares_memory(a, b) for a, b in zip(old, self.params, strict=True))
        for options, group in zip(self.model.options, self.opt.param_groups, strict=True):
            if callable(options["lr"]):
                assert repr(group["lr"]) == repr(options["lr"])
                options["lr"] = group["lr"]

    @precondition(lambda self: self.model.ema_decay is not None)
    @rule(breaks=st.booleans())
    def use_averages(self, breaks):
        averages = [bits(array.average) for array in self.model.arrays]
        assert list(map(bits, leaves(self.opt.averaged_params()))) == averages
        try:
            with self.opt.use_averaged_params():
                assert list(map(bits, self.params)) == averages
                if breaks:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    # What is refused.

    @rule(data=st.data())
    def wrong_gradients(self, data):
        given, _ = self.draw_grads(data)
        if self.model.kept and data.draw(st.booleans()):
            self.refused(lambda: self.opt.step(given))
            return
        i = data.draw(st.integers(0, len(self.params) - 1))
        param = self.params[i]
        other = np.float32 if param.dtype != np.float32 else np.float64
        grads = leaves(given)
        grads[i] = data.draw(
            st.sampled_from(
                [
                    np.zeros((*param.shape, 2), param.dtype), np.zeros(param.shape, other), Bad(),
                    "gradient", 1.0, RowGrad([2**40], np.zeros((1, *param.shape[1:]), param.dtype)),
                    np.ma.masked_array(np.zeros(param.shape, param.dtype)),
                ]
            )
        )  # fmt: skip
        wrong = self.nested(grads)
        nest = wrong[0] if self.grouped else wrong
        kinds = ["array", "none"]
        if isinstance(nest, list):
            kinds += ["more", "fewer"]
        if isinstance(nest, dict):
            kinds += ["other key", "bad key"]
        kind = data.draw(st.sampled_from(kinds))
        if kind == "none":
            wrong = None
        elif kind == "more":
            nest.append(None)
        elif kind == "fewer":
            nest.pop()
        elif kind == "other key":
            nest["another"] = None
        elif kind == "bad key":
            assume("a" in nest)
            nest[Key("a")] = nest.pop("a")
        if self.model.kept or data.draw(st.booleans()):
            self.refused(lambda: self.opt.accumulate(wrong))
        else:
            self.refused(lambda: self.opt.step(wrong))

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data(), bad=st.sampled_from(BAD_OPTIONS), accumulates=st.booleans())
    def wrong_options(self, data, bad, accumulates):
        name, value = bad
        given, _ = self.draw_grads(data)
        group = data.draw(st.sampled_from(self.opt.param_groups))
        accumulates = accumulates and not callable(value)  # a learning rate is not asked there
        call = self.opt.accumulate if accumulates else self.opt.step
        old, group[name] = group[name], value
        try:
            call(given)
        except (*ERRORS, ZeroDivisionError):
            pass
        else:
            raise AssertionError("it was not refused")
        finally:
            group[name] = old
        del group["lr"]
        self.refused(lambda: self.opt.step(given))
        group["lr"] = self.model.options[self.opt.param_groups.index(group)]["lr"]

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data(), scale=st.sampled_from([0.0, -1.0, np.nan, np.inf, "1", None]))
    def wrong_loss_scale(self, data, scale):
        given, _ = self.draw_grads(data)
        self.refused(lambda: self.opt.step(given, loss_scale=scale))

    @precondition(lambda self: not self.model.kept)
    @rule(data=st.data())
    def wrong_parameters(self, data):
        """One is locked, or replaced in its list or dict."""
        i = data.draw(st.integers(0, len(self.params) - 1))
        grads = [np.zeros(p.shape, p.dtype) for p in self.params]
        param = self.params[i]
        nest = self.nests[self.model.groups[i]]
        if isinstance(nest, list | dict) and data.draw(st.booleans()):
            place = next(iter(nest)) if isinstance(nest, dict) else 0
            if not isinstance(nest[place], np.ndarray) or not nest[place].size:
                return
            grads = self.nested(grads)
            old, nest[place] = nest[place], nest[place].copy()
            self.refused(lambda: self.opt.step(grads))
            nest[place] = old
        elif param.flags.owndata:  # else it could stay locked, as what pickle makes would
            param.flags.writeable = False
            self.refused(lambda: self.opt.step(self.nested(grads)))
            param.flags.writeable = True

    @precondition(lambda self: self.grouped)
    @rule(kind=st.integers(0, 6))
    def wrong_group(self, kind):
        nest = self.nests[0]
        group = [
            {"params": nest}, {"params": []}, {"lr": 1.0}, {"params": np.zeros(2), "lr": -1.0},
            {"params": [np.zeros(2, int)]}, {"params": np.zeros(2), "learning_rate": 1.0},
            {"params": [np.zeros(2), np.broadcast_to(0.0, 3)]},
        ][kind]  # fmt: skip
        if kind == 0 and not sum(leaf.size for leaf in leaves(nest)):
            return
        if kind == 1:
            return
        self.refused(lambda: self.opt.add_param_group(group))

    @rule(data=st.data())
    def wrong_state(self, data):
        state = self.opt.state_dict()
        key = data.draw(st.sampled_from(list(state["state"])))
        entry, group = state["state"][key], state["param_groups"][0]
        kind = data.draw(st.integers(0, 6))
        if kind == 0:
            entry["step"] = data.draw(st.sampled_from([-1, 0.5, "1", None, 2**62]))
        elif kind == 1:
            entry["another"] = np.zeros(3)
        elif kind == 2:
            group["lr"] = -1.0
        elif kind == 3:
            group["params"] = [*group["params"], "another"]
        elif kind == 4:
            state["state"]["another"] = entry
        elif kind == 5:
            state["param_groups"].append(group)
        else:
            arrays = [name for name, value in entry.items() if isinstance(value, np.ndarray)]
            assume(arrays)
            name = data.draw(st.sampled_from(arrays))
            entry[name] = data.draw(st.sampled_from([entry[name][None], None, Bad()]))
            assume(entry[name] is not None or name != "averaged_param")
        self.refused(lambda: self.opt.load_state_dict(state))

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def wrong_file(self, data):
        path, *_ = data.draw(st.sampled_from(self.files))
        with open(path, "rb") as file:
            content = bytearray(file.read())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[at:]
        wrong = os.path.join(self.folder.name, "wrong" + os.path.splitext(path)[1])
        with open(wrong, "wb") as file:
            file.write(content)
        self.refused(lambda: self.opt.load(wrong, rng=[]))

    @precondition(lambda self: not self.model.kept)
    @rule()
    def nothing_accumulated(self):
        self.refused(self.opt.step)

    # What must hold after each of them.

    @invariant()
    def is_the_model(self):
        if not hasattr(self, "opt"):
            return
        model, state = self.model, self.opt.state_dict()
        for i, (key, entry) in enumerate(state["state"].items()):
            array = model.arrays[i]
            expected = {
                "step": array.step,
                **dict(zip(model.rule.number_names, array.numbers, strict=True)),
            }
            expected |= {name: bits(values) for name, values in array.state.items()}
            if array.average is not None:
                expected["averaged_param"] = bits(array.average)
            found = {k: bits(v) if isinstance(v, np.ndarray) else v for k, v in entry.items()}
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert value == expected[name], (key, name)
            assert bits(self.params[i]) == bits(array.param), key
        assert len(state["state"]) == len(model.arrays)
        assert (self.opt._batch.sums is not None) == bool(model.kept)
        for group, options in zip(self.opt.param_groups, model.options, strict=True):
            for name, value in options.items():
                assert np.array_equal(group[name], value), name
        assert (self.opt.finished_steps, self.opt.skipped_steps) == (model.finished, model.skipped)
        norm = self.opt.grad_norm
        assert (
            norm is None
            if model.clip is None and not model.skip
            else bits(norm) == bits(model.norm)
        )

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def test_any_calls(backend):
    run_state_machine_as_test(Machine, settings=SETTINGS)
