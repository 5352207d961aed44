"""docs/migration.md: its programs, and what it says of options, results and state.

Other packages run in processes of their own: JAX starts threads, which forks of other tests would
lose, and thinc and Keras change settings. DeepSpeed compiles for minutes when it is first used, so
here only its rule is tried; test_torch_wrappers.py has the package.
"""

import copy
import functools
import importlib.util
import inspect
import math
import re

import numpy as np
import pytest
from migrations import PAGE, PRELUDE, TITLES, after, before, child, off, program

import fastadam
from fastadam import schedules


@pytest.fixture
def backend():
    """One is enough: all give the same bits, and the other packages are slow to start."""


#: The bounds that the page has, for its reasons, over 100 steps.
ROUNDING = {"float64": 1e-13, "float32": 5e-5}
RATE_IN_FLOAT32 = 1e-7
CLIPPED = 1e-6
#: From where on a difference is none of rounding.
ANOTHER_RULE = 1e-3
SHAPES = [(3, 4), (5,)]
STEPS = 100
NAN = math.nan
JAX_KERAS = {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}


def drawn(dtype="float64"):
    """Parameters and gradients of size 1."""
    rng = np.random.default_rng(18)
    start = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    grads = [[rng.standard_normal(s).astype(dtype) for s in SHAPES] for _ in range(STEPS)]
    return start, grads


def as_lists(arrays):
    return [a.tolist() if isinstance(a, np.ndarray) else as_lists(a) for a in arrays]


def trained(
    name, dtype="float64", *, lr=0.01, groups=None, prepare=None, every=1, scale=1.0, **options
):
    """What fastadam makes of them: with a group for each array, other gradients, the mean of
    several, or a loss scale, if that is asked for."""
    params, grads = drawn(dtype)
    nest = params if groups is None else [
        {"params": p, **group} for p, group in zip(params, groups, strict=True)
    ]  # fmt: skip
    opt = getattr(fastadam, name)(nest, lr=lr, **options)
    for i, g in enumerate(grads, 1):
        opt.accumulate([prepare(x) for x in g] if prepare else g)
        if i % every == 0:
            opt.step(loss_scale=scale)
    return params, opt


def clipped(g, norm=1.0):
    return g * (norm / max(norm, np.linalg.norm(g)))


def need(package):
    """Skip the test where it is missing; it is not imported here."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_the_bounds_are_the_pages():
    table = TITLES['What "rounding" means'].partition("| bound |")[2]
    bounds = re.findall(r"^\| .*? \| ([\d.e-]+) \|", table, re.M)
    assert [float(b) for b in bounds[:4]] == [*ROUNDING.values(), RATE_IN_FLOAT32, CLIPPED]


# The programs of the page

#: Each section with what it needs, the environment of its program before, and how far off it is.
PROGRAMS = {
    "torch.optim, for tensors": ("torch", {}, 1e-12),
    "torch.optim, leaving torch": ("torch", {}, 1e-12),
    "optax": ("optax", {}, CLIPPED),  # and its schedule is computed in float32
    "Keras": ("keras", JAX_KERAS, CLIPPED),
    "thinc": ("thinc", {}, ROUNDING["float32"]),
    "scikit-learn": ("sklearn", {}, 0.0),
    "A textbook Adam": (None, {}, 1e-12),
}


@pytest.mark.parametrize("title", PROGRAMS)
def test_before_and_after(title, capsys):
    """Gradients are those of the parameters, so roundings are more than the page's first bound."""
    package, environment, bound = PROGRAMS[title]
    if package:
        need(package)
    found = after(title, capsys)
    assert off(found, before(title, **environment)) <= bound
    assert np.any(np.asarray(found["w"]) != 0)


def test_all_programs_are_tried():
    sections = {title for title, text in TITLES.items() if "\nBefore" in text}
    assert sections == {*PROGRAMS, "DeepSpeed's CPUAdam"}


def test_epsilon_hat_is_larger_at_first():
    """By the factor of the page: then the two places are the same step, up to rounding."""
    for t in (1, 7, 100):
        state = [np.array([0.3]), np.array([1e-9]), np.array([1e-16])]
        a, b = ([array.copy() for array in state] for _ in range(2))
        fastadam.adam_step(a[0], np.array([1e-8]), *a[1:], step=t, eps=1e-8, epsilon_hat=True)
        eps = 1e-8 / math.sqrt(1 - 0.999**t)
        fastadam.adam_step(b[0], np.array([1e-8]), *b[1:], step=t, eps=eps)
        assert a[0] == pytest.approx(b[0], rel=1e-15)
        assert a[0] != state[0]


# Other packages' optimizers, with the same gradients

COMMON = """
import json, sys
start, grads, cases, dtype = json.load(sys.stdin)
import numpy as np
"""
OPTAX = (
    COMMON
    + """
import jax, jax.numpy as jnp, optax
jax.config.update("jax_enable_x64", dtype == "float64")
found = {}
for name, expression in cases.items():
    transform = eval(expression)
    params = [jnp.array(p, dtype) for p in start]
    state = transform.init(params)
    @jax.jit
    def step(params, state, g):
        updates, state = transform.update(g, state, params)
        return optax.apply_updates(params, updates), state
    for g in grads:
        params, state = step(params, state, [jnp.array(x, dtype) for x in g])
    found[name] = [p.tolist() for p in params]
print(json.dumps(found))
"""
)
KERAS = (
    COMMON
    + """
import keras
keras.config.set_floatx(dtype)
found = {}
for name, expression in cases.items():
    params = [keras.Variable(np.array(p, dtype), dtype=dtype) for p in start]
    optimizer = eval(expression, {**globals(), **vars(keras.optimizers)})
    for g in grads:
        optimizer.apply([np.array(x, dtype) for x in g], params)
    found[name] = [np.asarray(p).tolist() for p in params]
print(json.dumps(found))
"""
)
THINC = (
    COMMON
    + """
import thinc.api
found = {}
for name, expression in cases.items():
    optimizer = eval(expression, vars(thinc.api))
    params = [np.array(p, dtype) for p in start]
    for g in grads:
        for i, x in enumerate(g):
            optimizer((i, "w"), params[i], np.array(x, dtype))
        optimizer.step_schedules()
    found[name] = [p.tolist() for p in params]
print(json.dumps(found))
"""
)

HAT = {"eps": 1e-7, "epsilon_hat": True}
PLAIN = "grad_clip=0.0, use_averages=False"
COSINE = schedules.warmup_cosine(0.0, 0.01, 10, 100, end=0.001)

#: For each package: an expression of an optimizer of its, ours, and how far off it is in float64,
#: where that is more than rounding (None: another rule).
CASES = {
    "optax": {
        "optax.adam(0.01)": ("Adam", {}),
        "optax.adam(0.01, b1=0.8, b2=0.95, eps=1e-3)":
            ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3}),
        "optax.adamw(0.01)": ("AdamW", {"weight_decay": 1e-4}),
        "optax.adamw(0.01, weight_decay=0.1, mask=[True, False])":
            ("AdamW", {"groups": [{"weight_decay": 0.1}, {"weight_decay": 0.0}]}),
        "optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))":
            ("Adam", {"weight_decay": 0.1}),
        "optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))":
            ("Adam", {"max_grad_norm": 1.0}, CLIPPED),
        "optax.MultiSteps(optax.adam(0.01), 2, accumulator_dtype=dtype)": ("Adam", {"every": 2}),
        "optax.partition({'a': optax.adam(0.01), 'b': optax.adam(0.02)}, ['a', 'b'])":
            ("Adam", {"groups": [{}, {"lr": 0.02}]}),
        "optax.adam(optax.warmup_cosine_decay_schedule(0.0, 0.01, 10, 100, 0.001))":
            ("Adam", {"lr": COSINE}, RATE_IN_FLOAT32),
        "optax.sgd(0.01, momentum=0.9)": ("SGD", {"momentum": 0.9}),
        "optax.sgd(0.01, momentum=0.9, nesterov=True)":
            ("SGD", {"momentum": 0.9, "nesterov": True}),
        "optax.rmsprop(0.01, eps_in_sqrt=False)": ("RMSprop", {"alpha": 0.9}),
        "optax.rmsprop(0.01, eps_in_sqrt=False, momentum=0.9)":
            ("RMSprop", {"alpha": 0.9, "momentum": 0.9}),
        "optax.rmsprop(0.01, eps_in_sqrt=False, centered=True)":
            ("RMSprop", {"alpha": 0.9, "centered": True}),
        "optax.rmsprop(0.01, eps=1e-2)": ("RMSprop", {"alpha": 0.9, "eps": 1e-2}, None),
        "optax.adamax(0.01)": ("Adamax", {}),
        "optax.radam(0.01)": ("RAdam", {}, RATE_IN_FLOAT32),
        "optax.lion(0.01)": ("Lion", {"weight_decay": 1e-3}),
        "optax.contrib.adopt(0.01)": ("ADOPT", {}),
        "optax.contrib.ademamix(0.01)": ("AdEMAMix", {}),
        "optax.contrib.schedule_free_adamw(0.01, warmup_steps=None)": ("AdamWScheduleFree", {}),
        "optax.amsgrad(0.01)": ("Adam", {"amsgrad": True}, None),
        "optax.nadam(0.01)": ("NAdam", {}, None),
        "optax.adam(0.01, eps_root=1e-2)": ("Adam", {}, None),
    },
    "keras": {
        "Adam(0.01)": ("Adam", HAT),
        "Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3)":
            ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "epsilon_hat": True}),
        "Adam(0.01, epsilon=1e-3)": ("Adam", {"eps": 1e-3}, None),
        "Adam(0.01, weight_decay=0.1)": ("AdamW", {"weight_decay": 0.1, **HAT}),
        "AdamW(0.01)": ("AdamW", {"weight_decay": 0.004, **HAT}),
        "(lambda o: (o.exclude_from_weight_decay(params[1:]), o)[1])(AdamW(0.01))":
            ("AdamW", {"groups": [{"weight_decay": 0.004}, {"weight_decay": 0.0}], **HAT}),
        "Adam(0.01, amsgrad=True)": ("Adam", {"amsgrad": True, **HAT}),
        "Adam(0.01, global_clipnorm=1.0)": ("Adam", {"max_grad_norm": 1.0, **HAT}, CLIPPED),
        "Adam(0.01, clipnorm=1.0)": ("Adam", {"prepare": clipped, **HAT}),
        "Adam(0.01, clipvalue=0.5)":
            ("Adam", {"prepare": lambda g: np.clip(g, -0.5, 0.5), **HAT}),
        "Adam(0.01, gradient_accumulation_steps=2)": ("Adam", {"every": 2, **HAT}),
        "Adam(0.01, loss_scale_factor=8.0)": ("Adam", {"scale": 8.0, **HAT}),
        "SGD(0.01, momentum=0.9)": ("SGD", {"momentum": 0.9}),
        "SGD(0.01, momentum=0.9, nesterov=True)": ("SGD", {"momentum": 0.9, "nesterov": True}),
        "Lion(0.01)": ("Lion", {}),
        "RMSprop(0.01, epsilon=1e-2)": ("RMSprop", {"alpha": 0.9, "eps": 1e-2}, None),
        "Nadam(0.01)": ("NAdam", {"eps": 1e-7}, None),
    },
    "thinc": {
        f"Adam(0.01, {PLAIN})": ("Adam", {"epsilon_hat": True}),
        f"Adam(0.01, eps=1e-3, beta1=0.8, beta2=0.95, {PLAIN})":
            ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "epsilon_hat": True}),
        "Adam(0.01, use_averages=False)": ("Adam", {"epsilon_hat": True, "prepare": clipped}),
        f"Adam(0.01, L2=0.1, L2_is_weight_decay=False, {PLAIN})":
            ("Adam", {"weight_decay": 0.1, "epsilon_hat": True}),
        f"SGD(0.01, {PLAIN})": ("SGD", {}),
        f"RAdam(0.01, {PLAIN})": ("RAdam", {}, None),
    },
}  # fmt: skip
CODE = {"optax": OPTAX, "keras": KERAS, "thinc": THINC}
ENVIRONMENT = {"optax": {}, "keras": JAX_KERAS, "thinc": {}}
RUNS = [
    (package, dtype, case)
    for package, cases in CASES.items()
    for dtype in (ROUNDING if package != "thinc" else ["float32"])
    for case in cases
]


@functools.cache
def theirs(package, dtype):
    """What each optimizer of a package makes of the gradients, all in one process."""
    need(package)
    cases = {case: case for case in CASES[package]}
    data = [as_lists(part) for part in drawn(dtype)]
    environment = ENVIRONMENT[package]
    if package == "keras" and dtype == "float32":
        environment = {"KERAS_BACKEND": "numpy"}  # which takes less time
    return child(CODE[package], *data, cases, dtype, **environment)


@pytest.mark.parametrize(("package", "dtype", "case"), RUNS)
def test_the_options_of_the_tables(package, dtype, case):
    name, options, *more = CASES[package][case]
    params, _ = trained(name, dtype, **options)
    found = off(params, theirs(package, dtype)[case])
    if more == [None]:
        assert found > ANOTHER_RULE
    else:
        assert found < max(ROUNDING[dtype], *more, 0.0)


@functools.cache
def defaults():
    """Of each package: epsilon, and the weight decay of its AdamW."""
    found = {"fastadam": (1e-8, 0.01)}
    for name in found:
        signature = inspect.signature(fastadam.AdamW).parameters
        assert found[name] == (signature["eps"].default, signature["weight_decay"].default)
    torch = pytest.importorskip("torch")
    group = torch.optim.AdamW([torch.ones(1)]).defaults
    found["torch"] = group["eps"], group["weight_decay"]
    need("optax")
    found["optax"] = child(
        "import inspect, optax; p = inspect.signature(optax.adamw).parameters\n"
        "print([p['eps'].default, p['weight_decay'].default])"
    )
    need("keras")
    found["Keras"] = child(
        "import keras; o = keras.optimizers.AdamW(); print([o.epsilon, o.weight_decay])",
        **JAX_KERAS,
    )
    need("thinc")
    found["thinc"] = child("import thinc.optimizers as t; print([t.ADAM_DEFAULTS['eps'], 0])")
    neural = pytest.importorskip("sklearn.neural_network")
    found["scikit-learn"] = neural.MLPClassifier().epsilon, 0
    return found


def test_the_table_of_defaults():
    table = TITLES['What "rounding" means'].partition("| default | torch |")[2].partition("\n\n")[0]
    head, _, *rows = [[c.strip() for c in line.split("|")] for line in table.splitlines()]
    names = ["torch", *filter(None, head)]
    rows = {cells[1]: dict(zip(names, cells[2:-1], strict=True)) for cells in rows}
    for name, (eps, decay) in defaults().items():
        assert float(rows["epsilon"][name]) == eps
        if name not in ("thinc", "scikit-learn"):
            assert float(rows["default decay of `AdamW`"][name]) == decay
    assert rows["epsilon"]["DeepSpeed"] == "1e-8"  # test_torch_wrappers.py asks the package


# torch

TORCH = [
    ("Adam", {}), ("Adam", {"weight_decay": 0.1, "amsgrad": True}), ("Adam", {"maximize": True}),
    ("AdamW", {}), ("AdamW", {"amsgrad": True}), ("NAdam", {}), ("RAdam", {}), ("Adamax", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9}), ("SGD", {"momentum": 0.9, "nesterov": True}),
]  # fmt: skip


def train_torch(optimizer, tensors, grads, around=None):
    for g in grads:
        for p, x in zip(tensors, g, strict=True):
            p.grad = torch_of(x)
        optimizer.step()
        if around:
            around()


def torch_of(array):
    return pytest.importorskip("torch").from_numpy(array.copy())


def tensors_of(arrays):
    torch = pytest.importorskip("torch")
    return [torch.nn.Parameter(torch_of(p)) for p in arrays]


def arrays_of(tensors):
    return [p.detach().numpy() for p in tensors]


@pytest.mark.parametrize("how", [{"foreach": False}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("name", "options"), TORCH)
def test_torch(name, options, dtype, how):
    torch = pytest.importorskip("torch")
    if "fused" in how and name not in ("Adam", "AdamW", "SGD"):
        how = {"foreach": None}
    start, grads = drawn(dtype)
    ours, other = tensors_of(start), tensors_of(start)
    torch.set_default_dtype(getattr(torch, dtype))  # of NAdam's product of momenta
    try:
        for module, params in ((fastadam.torch, ours), (torch.optim, other)):
            train_torch(getattr(module, name)(params, lr=0.01, **options, **how), params, grads)
    finally:
        torch.set_default_dtype(torch.float32)
    assert off(arrays_of(ours), arrays_of(other)) < ROUNDING[dtype]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_torchs_state_goes_both_ways(name):
    torch = pytest.importorskip("torch")
    options = {"lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    start, grads = drawn()
    classes = getattr(torch.optim, name), getattr(fastadam.torch, name)
    for first, second in (classes, classes[::-1]):
        params = tensors_of(start)
        old = first(params, **options)
        train_torch(old, params, grads[:50])
        others = tensors_of(arrays_of(params))
        new = second(others, lr=0.5)
        new.load_state_dict(copy.deepcopy(old.state_dict()))
        for entry, other in zip(old.state.values(), new.state.values(), strict=True):
            for key in set(entry) - {"step"}:
                assert torch.equal(entry[key], other[key])
        assert new.param_groups[0]["lr"] == 0.01
        arrays = [p.copy() for p in arrays_of(params)]
        alone = getattr(fastadam, name)(arrays, lr=0.5)
        alone.load_state_dict(old.state_dict())
        assert alone.lr == 0.01
        for optimizer, tensors in ((old, params), (new, others)):
            train_torch(optimizer, tensors, grads[50:])
        for g in grads[50:]:
            alone.step(g)
        assert off(arrays_of(others), arrays_of(params)) < ROUNDING["float64"]
        assert off(arrays, arrays_of(params)) < ROUNDING["float64"]


def test_torchs_average_begun_before_training():
    torch = pytest.importorskip("torch")
    start, grads = drawn()
    module = torch.nn.Module()
    module.params = torch.nn.ParameterList(tensors_of(start))
    tensors = list(module.params)
    ema = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=ema)
    average.update_parameters(module)
    optimizer = torch.optim.Adam(tensors, lr=0.01)
    train_torch(optimizer, tensors, grads, lambda: average.update_parameters(module))
    _, opt = trained("Adam", ema_decay=0.9)
    assert off(opt.averaged_params(), arrays_of(average.module.params)) < ROUNDING["float64"]


def test_torchs_grad_scaler():
    torch = pytest.importorskip("torch")
    start, grads = drawn()
    grads[7][0][1, 2] = np.inf
    tensors = tensors_of(start)
    optimizer = torch.optim.Adam(tensors, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    params = [p.copy() for p in start]
    opt = fastadam.Adam(params, lr=0.01, skip_nonfinite=True)
    for g in grads:
        scaler.scale(torch.ones(1))
        for p, x in zip(tensors, g, strict=True):
            p.grad = torch_of(x)
        opt.step(g, loss_scale=scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    assert opt.skipped_steps == 1
    assert off(params, arrays_of(tensors)) < ROUNDING["float64"]


def test_torchs_sparse_adam():
    """It takes epsilon-hat, and counts the steps of the table, not of a row, as ours."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    array = rng.standard_normal((20, 3))
    tables = [torch.nn.Embedding.from_pretrained(torch_of(array), False, sparse=True) for _ in "ab"]
    options = {"lr": 0.01, "eps": 1e-3}
    opt = fastadam.Adam(array, epsilon_hat=True, **options)
    optimizers = [
        fastadam.torch.Adam(tables[0].parameters(), epsilon_hat=True, **options),
        torch.optim.SparseAdam(tables[1].parameters(), **options),
    ]
    for _ in range(STEPS):
        words, grads = rng.permutation(20)[:4], rng.standard_normal((4, 3))
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            (table(torch_of(words)) * torch_of(grads)).sum().backward()
            optimizer.step()
        opt.step(fastadam.RowGrad(words, grads))
    ours, torchs = arrays_of(table.weight for table in tables)
    assert off([ours], [torchs]) < ROUNDING["float64"]
    assert ours.tobytes() == array.tobytes()


def test_half_precision_is_stepped_as_float32():
    torch = pytest.importorskip("torch")
    start, grads = drawn("float32")
    runs = {}
    for module, dtype in (
        (fastadam.torch, torch.float32), (fastadam.torch, torch.bfloat16),
        (torch.optim, torch.bfloat16),
    ):  # fmt: skip
        tensors = [torch.nn.Parameter(torch_of(p).bfloat16().to(dtype)) for p in start]
        optimizer = module.Adam(tensors, lr=0.01)
        for g in grads:
            for p, x in zip(tensors, g, strict=True):
                p.grad = torch_of(x).bfloat16().to(dtype)
            optimizer.step()
        runs[module.__name__, dtype] = [p.detach().bfloat16() for p in tensors]
    whole, half, torchs = runs.values()
    assert all(map(torch.equal, half, whole))
    assert not all(map(torch.equal, torchs, whole))


# What is not options

OPTAX_AVERAGE = (
    COMMON
    + """
import jax, jax.numpy as jnp, optax
jax.config.update("jax_enable_x64", True)
params = average = [jnp.array(p) for p in start]
transform = optax.adam(0.01)
state = transform.init(params)
@jax.jit
def step(params, state, average, g):
    updates, state = transform.update(g, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, optax.incremental_update(params, average, 1 - 0.9)
for g in grads:
    params, state, average = step(params, state, average, [jnp.array(x) for x in g])
print(json.dumps([p.tolist() for p in average]))
"""
)
KERAS_AVERAGE = (
    COMMON
    + """
import keras
keras.config.set_floatx(dtype)
params = [keras.Variable(np.array(p), dtype=dtype) for p in start]
optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
seen = []
for g in grads:
    optimizer.apply([np.array(x) for x in g], params)
    averages = [v for v in optimizer.variables if v.path.endswith("average")]
    seen.append([np.asarray(v).tolist() for v in averages])
print(json.dumps(seen))
"""
)
THINC_AVERAGE = (
    COMMON
    + """
import thinc.api
params = [np.array(p, dtype) for p in start]
optimizer = thinc.api.Adam(0.01, grad_clip=0.0)
for g in grads:
    for i, x in enumerate(g):
        optimizer((i, "w"), params[i], np.array(x, dtype))
print(json.dumps([optimizer.averages[i, "w"].tolist() for i in range(2)]))
"""
)


@functools.cache
def theirs_of(package, code, dtype="float64", bad=None):
    need(package)
    start, grads = drawn(dtype)
    if bad is not None:
        grads[bad][0][1, 2] = NAN
    return child(code, as_lists(start), as_lists(grads), {}, dtype, **ENVIRONMENT[package])


def test_optaxs_incremental_update():
    _, opt = trained("Adam", ema_decay=0.9)
    found = off(opt.averaged_params(), theirs_of("optax", OPTAX_AVERAGE))
    assert found < ROUNDING["float64"]


def test_keras_begins_its_average_a_step_later():
    expected = theirs_of("keras", KERAS_AVERAGE)
    params, grads = drawn()
    start = [p.copy() for p in params]
    opt = fastadam.Adam(params, lr=0.01, ema_decay=0.9, **HAT)
    first = None
    for t, (g, averages) in enumerate(zip(grads, expected, strict=True), 1):
        opt.step(g)
        first = first or [p - q for p, q in zip(params, start, strict=True)]
        found = [a + 0.9**t * d for a, d in zip(opt.averaged_params(), first, strict=True)]
        assert off(found, averages) < ROUNDING["float64"]


def test_thincs_average():
    expected = theirs_of("thinc", THINC_AVERAGE, "float32")
    params, grads = drawn("float32")
    opt = fastadam.Adam(params, lr=0.01, epsilon_hat=True, ema_decay=0.9999)
    averages = [np.zeros_like(p) for p in params]
    for t, g in enumerate(grads, 1):
        opt.step(g)
        decay = min(0.9999, (1 + t) / (10 + t))
        averages = [decay * a + (1 - decay) * p for a, p in zip(averages, params, strict=True)]
    assert off(averages, expected) < ROUNDING["float32"]
    assert off(opt.averaged_params(), expected) > ANOTHER_RULE


THINC_DECAY = (
    COMMON
    + """
import thinc.api
params = [np.array(p, dtype) for p in start]
optimizer = thinc.api.Adam(0.01, L2=0.1, grad_clip=0.0)
for i, x in enumerate(grads[0]):
    optimizer((i, "w"), params[i], np.array(x, dtype))
print(json.dumps([p.tolist() for p in params]))
"""
)


def test_thinc_decays_after_the_update():
    """A step differs from ours by lr * w of an update; undoing that leaves rounding."""
    expected = theirs_of("thinc", THINC_DECAY, "float32")
    start, grads = drawn("float32")
    runs = {}
    for name, decay in (("Adam", 0.0), ("AdamW", 0.1)):
        runs[name] = [p.copy() for p in start]
        getattr(fastadam, name)(
            runs[name], lr=0.01, weight_decay=decay, epsilon_hat=True
        ).step(grads[0])  # fmt: skip
    updates = [p - q for p, q in zip(runs["Adam"], start, strict=True)]
    found = [p - 0.01 * 0.1 * u for p, u in zip(runs["AdamW"], updates, strict=True)]
    assert off(found, expected) < 1e-6 < off(runs["AdamW"], expected) < 2e-5


OPTAX_FINITE = OPTAX_AVERAGE.replace(
    "optax.adam(0.01)", "optax.apply_if_finite(optax.adam(0.01), 9)"
)
OPTAX_FINITE = OPTAX_FINITE.replace("for p in average]", "for p in params]")


def test_optaxs_apply_if_finite():
    expected = theirs_of("optax", OPTAX_FINITE, bad=7)
    params, grads = drawn()
    grads[7][0][1, 2] = NAN
    opt = fastadam.Adam(params, lr=0.01, skip_nonfinite=True)
    for g in grads:
        opt.step(g)
    assert opt.skipped_steps == 1
    assert off(params, expected) < ROUNDING["float64"]


SCHEDULES = {
    "optax": {
        "optax.constant_schedule(0.1)": schedules.constant(0.1),
        "optax.linear_schedule(0.1, 0.3, 10)": schedules.linear(0.1, 0.3, 10),
        "optax.polynomial_schedule(0.3, 0.1, 2, 10)": schedules.polynomial(0.3, 0.1, 10, power=2),
        "optax.piecewise_constant_schedule(0.3, {5: 0.5, 9: 0.1})":
            schedules.piecewise_constant(0.3, {5: 0.5, 9: 0.1}),
        "optax.exponential_decay(0.3, 10, 0.5)": schedules.exponential_decay(0.3, 0.5, 10),
        "optax.exponential_decay(0.3, 10, 0.5, staircase=True, end_value=0.1)":
            schedules.exponential_decay(0.3, 0.5, 10, staircase=True, end=0.1),
        "optax.cosine_decay_schedule(0.3, 20, alpha=0.1)":
            schedules.cosine_decay(0.3, 20, end=0.1 * 0.3),
        "optax.warmup_cosine_decay_schedule(0.1, 0.3, 5, 20, 0.01)":
            schedules.warmup_cosine(0.1, 0.3, 5, 20, end=0.01),
        "optax.join_schedules([lambda n: 0.1, optax.linear_schedule(0.3, 0.1, 8)], [6])":
            schedules.join([schedules.constant(0.1), schedules.linear(0.3, 0.1, 8)], [6]),
    },
    "keras": {
        "CosineDecay(0.3, 20, alpha=0.1)": schedules.cosine_decay(0.3, 20, end=0.1 * 0.3),
        "CosineDecay(0.1, 15, alpha=0.1, warmup_target=0.3, warmup_steps=5)":
            schedules.warmup_cosine(0.1, 0.3, 5, 20, end=0.1 * 0.3),
        "ExponentialDecay(0.3, 10, 0.5)": schedules.exponential_decay(0.3, 0.5, 10),
        "ExponentialDecay(0.3, 10, 0.5, staircase=True)":
            schedules.exponential_decay(0.3, 0.5, 10, staircase=True),
        "PolynomialDecay(0.3, 10)": schedules.polynomial(0.3, 1e-4, 10),
        "PolynomialDecay(0.3, 10, power=2.0)": schedules.polynomial(0.3, 1e-4, 10, power=2.0),
        "PiecewiseConstantDecay([5, 9], [0.3, 0.1, 0.2])":
            schedules.piecewise_constant(0.3, {6: 0.1 / 0.3, 10: 2.0}),
    },
}  # fmt: skip
RATES = (
    COMMON
    + """
if dtype == "optax":
    import optax
else:
    from keras.optimizers.schedules import *
found = {c: [float(eval(c)(step)) for step in range(30)] for c in cases}
print(json.dumps(found))
"""
)


@functools.cache
def rates_of(package):
    need(package)
    cases = {case: case for case in SCHEDULES[package]}
    return child(RATES, [], [], cases, package, KERAS_BACKEND="jax")


@pytest.mark.parametrize(("package", "case"), [(p, c) for p in SCHEDULES for c in SCHEDULES[p]])
def test_schedules(package, case):
    """The packages' are float32: ten roundings of 0.3, or the cosine's near its end."""
    found = [SCHEDULES[package][case](finished) for finished in range(30)]
    assert np.abs(np.subtract(found, rates_of(package)[case])).max() < 3e-7


# State that is carried over

GO_ON = {
    "optax": """
for _ in range(50):
    theirs, state = step(theirs, state)
    opt.step(gradient(params))
""",
    "Keras": """
for _ in range(50):
    grads = gradient({name: keras.ops.convert_to_numpy(p) for name, p in theirs.items()})
    optimizer.apply(list(grads.values()), list(theirs.values()))
    opt.step(gradient(params))
""",
    "thinc": """
theirs = {name: p.copy() for name, p in params.items()}
for _ in range(50):
    for name, g in gradient(theirs).items():
        optimizer((0, name), theirs[name], g.astype(np.float32))
    grads = gradient(params)
    opt.step({name: clipped(g.astype(np.float32)) for name, g in grads.items()})
""",
}
FORGETFUL = """
with_moments = carry_over


def carry_over(opt, step, exp_avg, exp_avg_sq):
    zeros = ([np.zeros_like(m) for m in moments] for moments in (exp_avg, exp_avg_sq))
    with_moments(opt, step, *zeros)


"""
DISTANCE = """
import json

assert opt.finished_steps == 150
print(json.dumps(max(float(np.abs(np.asarray(theirs[n]) - params[n]).max()) for n in params)))
"""


@functools.cache
def distance(title, carried=True):
    """How far apart a package and fastadam are, 50 steps after the state was carried over."""
    (carry,) = re.findall(r"^```py\n((?:(?!^```).)*carry_over.*?)^```", TITLES[title], re.M | re.S)
    change = "" if carried else FORGETFUL
    define = "from fastadam import schedules\nlr_after = schedules.cosine_decay(0.05, 200)\n"
    ours = "lr = lr_after\n" if title != "thinc" else program(title, "After").partition("\n\n\n")[0]
    code = PRELUDE + change + program(title, "Before") + "\ntheirs = params\n" + define
    environment = PROGRAMS[title][1]
    return child(code + ours + "\n" + carry + GO_ON[title] + DISTANCE, **environment)


@pytest.mark.parametrize("title", GO_ON)
def test_state_is_carried_over(title):
    package, _, bound = PROGRAMS[title]
    need(package)
    assert distance(title) < bound
    assert distance(title, carried=False) > ANOTHER_RULE


def test_state_of_a_textbook_is_carried_over():
    old, new = {}, {}
    code = PRELUDE + program("A textbook Adam", "Before")
    exec(code.replace("range(1, 101)", "range(1, 151)"), old)
    exec(code, new)
    opt = fastadam.Adam(new["params"], lr=0.05)
    new["carry_over"](opt, new["t"], new["m"].values(), new["v"].values())
    for _ in range(50):
        opt.step(new["gradient"](new["params"]))
    assert off(new["params"], old["params"]) < 1e-12


# scikit-learn


def test_scikit_learn_in_float32():
    neural = pytest.importorskip("sklearn.neural_network")
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((60, 3)).astype("f4"), rng.standard_normal(60).astype("f4")
    fits = []
    for patch in (False, True):
        model = neural.MLPRegressor(hidden_layer_sizes=(8,), tol=0.1, random_state=0)
        if patch:
            with fastadam.sklearn.patched_sklearn():
                model.fit(x, y)
        else:
            model.fit(x, y)
        fits.append(model.coefs_)
    assert off(*fits) < ROUNDING["float32"]


def test_scikit_learn_keeps_an_estimators_optimizer():
    neural = pytest.importorskip("sklearn.neural_network")
    x, y = np.eye(6), np.arange(6.0)
    model = neural.MLPRegressor(hidden_layer_sizes=(3,), tol=1e9, random_state=0).fit(x, y)
    kept = model._optimizer
    with fastadam.sklearn.patched_sklearn():
        model.partial_fit(x, y)
    assert model._optimizer is kept
    assert type(kept).__module__.startswith("sklearn.")


def test_scikit_learns_alpha(monkeypatch):
    """It adds alpha / rows of the coefficients to their gradients, and none to intercepts'."""
    neural = pytest.importorskip("sklearn.neural_network")
    from sklearn.neural_network import _multilayer_perceptron as mlp

    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((10, 3)), rng.standard_normal(10)
    seen = []

    class Recorded(mlp.AdamOptimizer):
        def update_params(self, params, grads):
            seen.append(([p.copy() for p in params], [g.copy() for g in grads]))
            super().update_params(params, grads)

    monkeypatch.setattr(mlp, "AdamOptimizer", Recorded)
    for alpha in (0.0, 0.5):
        neural.MLPRegressor(
            hidden_layer_sizes=(4,), alpha=alpha, random_state=0, batch_size=10
        ).partial_fit(x, y)
    (params, plain), (_, decayed) = seen
    for p, g, d in zip(params, plain, decayed, strict=True):
        expected = g + 0.5 / 10 * p if p.ndim == 2 else g
        assert np.allclose(d, expected, rtol=1e-13, atol=1e-15)


# DeepSpeed


def deepspeeds_rule(p, g, m, v, t, *, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
                    adamw_mode=True):  # fmt: skip
    """What csrc/adam/cpu_adam_impl.cpp of DeepSpeed 0.19.8 computes, in the arrays' dtype."""
    if weight_decay > 0 and not adamw_mode:
        g = p * weight_decay + g
    m = m * betas[0] + g * (1 - betas[0])
    v = v * betas[1] + g * g * (1 - betas[1])
    denom = np.sqrt(v) * (1 / math.sqrt(1 - betas[1] ** t)) + eps
    if weight_decay > 0 and adamw_mode:
        p = p - lr * weight_decay * p
    return p - lr / (1 - betas[0] ** t) * (m / denom), m, v


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {}),
        ("AdamW", {"weight_decay": 0.1}),
        ("Adam", {"weight_decay": 0.1, "adamw_mode": False}),
        ("AdamW", {"betas": (0.8, 0.95), "eps": 1e-3}),
    ],
)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_deepspeeds_rule(name, options, dtype):
    params, grads = drawn()
    moments = [[np.zeros_like(p) for p in params] for _ in range(2)]
    for t, g in enumerate(grads, 1):
        new = [deepspeeds_rule(*a, t, **options) for a in zip(params, g, *moments, strict=True)]
        params, *moments = map(list, zip(*new, strict=True))
    ours = {"weight_decay": 0.0, **options}
    ours.pop("adamw_mode", None)
    found, _ = trained(name, dtype, **ours)
    assert off(found, params) < ROUNDING[dtype]


# A textbook

TEXTBOOK = {
    "lr * (m / c1) / (np.sqrt(v / c2) + eps)": {},
    "lr * np.sqrt(c2) / c1 * m / (np.sqrt(v) + eps)": {"epsilon_hat": True},
    "lr * (m / c1) / np.sqrt(v / c2 + eps)": None,
    "lr * m / (np.sqrt(v) + eps)": None,
}


@pytest.mark.parametrize("formula", TEXTBOOK)
def test_where_a_textbook_has_epsilon(formula):
    params, grads = drawn()
    lr, eps, code = 0.01, 1e-3, compile(formula, formula, "eval")
    for i, p in enumerate(params):
        m = v = np.zeros_like(p)
        for t, g in enumerate(grads, 1):
            m, v = 0.9 * m + 0.1 * g[i], 0.999 * v + 0.001 * g[i] ** 2
            names = {"m": m, "v": v, "c1": 1 - 0.9**t, "c2": 1 - 0.999**t}
            p -= eval(code, {"lr": lr, "eps": eps, "np": np, **names})
    options = TEXTBOOK[formula]
    if options is not None:
        found, _ = trained("Adam", eps=eps, **options)
        assert off(found, params) < ROUNDING["float64"]
    else:
        for hat in (False, True):
            found, _ = trained("Adam", eps=eps, epsilon_hat=hat)
            assert off(found, params) > ANOTHER_RULE


def test_float64_gradients_of_float32_parameters_are_refused():
    with pytest.raises(TypeError, match="float64"):
        fastadam.Adam(np.ones(2, np.float32)).step(np.ones(2))


def test_links_lead_to_sections():
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in TITLES}
    assert set(re.findall(r"\]\(#(.*?)\)", PAGE)) <= anchors


def test_a_state_dict_without_bias_correction_is_refused():
    torch = pytest.importorskip("torch")
    import fastadam.torch

    p, w = torch.nn.Parameter(torch.ones(3)), np.ones(3, np.float32)
    for opt in (fastadam.torch.AdamW([p]), fastadam.AdamW(w)):
        saved = opt.state_dict()
        saved["param_groups"][0]["bias_correction"] = True
        opt.load_state_dict(saved)
        saved["param_groups"][0]["bias_correction"] = False
        with pytest.raises(ValueError, match="bias_correction=False"):
            opt.load_state_dict(saved)
