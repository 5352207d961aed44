"""What other people's code may do around and within a step of fastadam.torch.

Wrappers, objects whose methods are called while a step reads options and gradients, signals
and the garbage collector: a step happens as a whole or not at all, on the memory that there is.
"""

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from fastadam import _backend  # noqa: E402
from fastadam.torch import _optimizer  # noqa: E402

#: For tests that choose nothing here.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)


def run(code):
    """Run code in a process of its own; what it prints, or an error if it did not end well."""
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={key: value for key, value in os.environ.items() if not key.startswith("FASTADAM_")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, (result.returncode, result.stderr)
    assert result.stderr == ""
    return result.stdout


def trained(name="Adam", steps=3, n=3, **options):
    """An optimizer of a group for each parameter, after some steps."""
    params = [torch.nn.Parameter(torch.ones(4) + i) for i in range(n)]
    groups = [{"params": [p]} for p in params]
    optimizer = getattr(fastadam.torch, name)(groups, **{"lr": 0.1, **options})
    for _ in range(steps):
        step(optimizer)
    return optimizer


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer, times=1):
    for _ in range(times):
        for p in params_of(optimizer):
            p.grad = torch.ones(4)
        optimizer.step()


def entry(optimizer, i):
    return optimizer.state[params_of(optimizer)[i]]


def content(optimizer):
    """All bytes of the parameters and of the state."""
    tensors = list(params_of(optimizer))
    for p in params_of(optimizer):
        state = optimizer.state.get(p, {})
        tensors += [state[key] for key in sorted(state)]
    return [t.detach().numpy().tobytes() for t in tensors]


# What is done to the second parameter; after each the next step differs.
CHANGES = {
    "moment replaced": lambda o: entry(o, 1).update(exp_avg=torch.full((4,), -5.0)),
    "moment's data replaced": lambda o: setattr(entry(o, 1)["exp_avg"], "data", torch.ones(4)),
    "moment moved": lambda o: entry(o, 1)["exp_avg"].share_memory_(),
    "count moved": lambda o: entry(o, 1)["step"].share_memory_(),
    "count filled": lambda o: entry(o, 1)["step"].fill_(50),
    "entry removed": lambda o: o.state.pop(params_of(o)[1]),
    "parameter's data replaced": lambda o: setattr(params_of(o)[1], "data", torch.full((4,), 7.0)),
    "parameter moved": lambda o: params_of(o)[1].data.share_memory_(),
}


class Forwarding:
    """As wrappers of Lightning and Fabric: a class derived from the optimizer's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {})

    def step(self):
        return self.optimizer.step()

    def __getattr__(self, name):
        return getattr(self.optimizer, name)


class Copying(Forwarding):
    """As older ones: with a copy of its attributes, too."""

    def __init__(self, optimizer):
        self.__dict__ = dict(vars(optimizer))
        super().__init__(optimizer)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("wrapper", [Forwarding, Copying])
def test_changes_through_a_wrapper_are_seen(wrapper, change):
    plain, inner = trained(), trained()
    wrapped = wrapper(inner)
    for optimizer in (plain, wrapped):
        step(optimizer)
        change(optimizer)
        step(optimizer, 2)
    assert content(inner) == content(plain)
    assert isinstance(wrapped, fastadam.torch.Adam)


class Intruder(torch.Tensor):
    """Runs something, once or always, when it is asked for its value or its memory."""

    action = None
    stays = False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        action = Intruder.action
        if action is not None and func.__name__ in ("item", "detach"):
            Intruder.action = None
            action()
            Intruder.action = action if Intruder.stays else None
        return super().__torch_function__(func, types, args, kwargs or {})


class Mode(torch.overrides.TorchFunctionMode):
    """Runs something when the first gradient is read."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.action is not None and getattr(func, "__self__", None) is torch.Tensor.grad:
            action, self.action = self.action, None
            action()
        return func(*args, **(kwargs or {}))


def step_within_which(optimizer, action, place):
    """A step that runs other people's code while it reads an option, a gradient, or all."""
    for p in params_of(optimizer):
        p.grad = torch.ones(4)
    Intruder.action = None if place == "mode" else action
    if place == "mode":
        with Mode(action):
            optimizer.step()
        return
    group = optimizer.param_groups[0]
    if place == "option":
        lr, group["lr"] = group["lr"], torch.tensor(group["lr"]).double().as_subclass(Intruder)
    else:
        group["params"][0].grad = torch.ones(4).as_subclass(Intruder)
    try:
        optimizer.step()
        assert Intruder.action is None
    finally:
        Intruder.action = None
        if place == "option":
            group["lr"] = lr


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("place", ["option", "gradient", "mode"])
def test_changes_within_a_step_are_seen(place, change):
    """The step is the same as if they had come before it."""
    before, within = trained(lr=0.125), trained(lr=0.125)  # a number that float32 has, too
    change(before)
    step(before)
    step_within_which(within, lambda: change(within), place)
    assert content(within) == content(before)
    for optimizer in (before, within):
        step(optimizer, 2)
    assert content(within) == content(before)


@pytest.fixture
def stays(monkeypatch):
    monkeypatch.setattr(Intruder, "stays", True)
    yield
    Intruder.action = None


def test_changes_at_each_reading_are_seen(stays):
    """The state never stays as it was when the step began to look at it."""
    before, within = trained(steps=0), trained(steps=0)
    moments = [torch.full((4,), -5.0) for _ in range(20)]
    for optimizer in (before, within):
        step(optimizer)
    for _ in range(3):
        for optimizer in (before, within):
            entry(optimizer, 1)["exp_avg"] = torch.full((4,), -5.0)
            for p in params_of(optimizer):
                p.grad = torch.ones(4)
        before.step()
        params_of(within)[0].grad = torch.ones(4).as_subclass(Intruder)
        Intruder.action = lambda: entry(within, 1).update(exp_avg=moments.pop())
        within.step()
        Intruder.action = None
        assert content(within) == content(before)


def test_an_error_keeps_what_others_did(stays):
    ours = trained(weight_decay=0.1)
    params, moment = params_of(ours), torch.full((4,), -5.0)
    entry(ours, 1)["exp_avg"] = entry(ours, 1)["exp_avg"].clone()  # so that all is done anew
    params[0].grad = torch.ones(4).as_subclass(Intruder)
    params[2].grad = torch.eye(4).to_sparse()[0].coalesce()
    before = [p.detach().clone() for p in params]
    Intruder.action = lambda: entry(ours, 1).update(exp_avg=moment)
    with pytest.raises(ValueError, match="weight_decay"):
        ours.step()
    assert entry(ours, 1)["exp_avg"] is moment
    assert all(map(torch.equal, params, before))
    assert {int(entry(ours, i)["step"]) for i in range(3)} == {3}


@pytest.mark.parametrize("place", ["option", "gradient", "mode"])
@pytest.mark.parametrize("what", ["step", "load_state_dict"])
def test_a_step_does_not_use_its_optimizer(what, place):
    ours, reference = trained(), trained()
    saved = trained(steps=7).state_dict()
    actions = {"step": ours.step, "load_state_dict": lambda: ours.load_state_dict(saved)}
    with pytest.raises(RuntimeError, match=r"that a step called.*must not use its optimizer"):
        step_within_which(ours, actions[what], place)
    assert content(ours) == content(reference)
    for optimizer in (ours, reference):
        step(optimizer, 2)
    assert content(ours) == content(reference)


def test_memory_that_moves_while_it_is_looked_at():
    """Of a parameter of a class that is not torch's all memory is asked for, one by one."""
    params = [torch.nn.Parameter(torch.ones(4)), torch.ones(4).as_subclass(Intruder)]
    ours = fastadam.torch.Adam(params)
    step(ours)
    before = content(ours)
    Intruder.action = params[0].data.share_memory_
    for p in params:
        p.grad = torch.ones(4)
    with pytest.raises(RuntimeError, match=r"^param_groups\[0\]\['params'\]\[0\] was moved"):
        ours.step()
    assert content(ours) == before
    ours.step()
    assert entry(ours, 1)["step"] == 2


GROUPS_THAT_VANISH = """
import torch
import fastadam.torch

class Odd(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ == "item":
            del optimizer.param_groups[1:]
        return super().__torch_function__(func, types, args, kwargs or {})

params = [torch.nn.Parameter(torch.ones(4)) for _ in range(30)]
optimizer = fastadam.torch.Adam([{"params": [p]} for p in params], lr=0.5)
for lr in (0.5, 0.5, torch.tensor(0.5).as_subclass(Odd)):
    optimizer.param_groups[0]["lr"] = lr
    for p in params:
        p.grad = torch.ones(4)
    optimizer.step()
print(round(params[0][0].item(), 4))
"""


@once
def test_groups_that_vanish_within_a_step():
    assert run(GROUPS_THAT_VANISH) == "-0.5\n"


GARBAGE = """
import gc
import torch
import fastadam.torch

class Wrapper:  # as LightningOptimizer was
    def __init__(self, optimizer):
        self.__dict__ = dict(vars(optimizer))
        self.trainer = self

for _ in range(5):
    params = [torch.nn.Parameter(torch.ones(64)) for _ in range(20)]
    optimizer = fastadam.torch.Adam(params)
    optimizer.cycle = optimizer
    for p in params:
        p.grad = torch.ones(64)
    for _ in range(3):
        optimizer.step()
    Wrapper(optimizer)
    del optimizer, params, p
    assert gc.collect()
print("survived")
"""


@once
def test_garbage_with_cycles():
    assert run(GARBAGE) == "survived\n"


def test_a_weak_reference_to_the_memory_of_a_state():
    """It gives back an object that lives as long as the memory, and can move that."""
    reference, ours = trained(), trained()
    references = [weakref.ref(entry(o, 1)["exp_avg"].untyped_storage()) for o in (reference, ours)]
    for optimizer in (reference, ours):
        step(optimizer, 2)
    references[1]()._share_filename_cpu_()
    for optimizer in (reference, ours):
        step(optimizer)
    assert content(ours) == content(reference)


BORROWING = """
import sys
count = sys.getrefcount
# As CPython 3.14 says, where calls borrow what a local variable holds. (Here one more reference
# than in a call of sys.getrefcount is that of this function's own variable.)
sys.getrefcount = lambda value: count(value) - 2
import torch
import fastadam.torch
params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
optimizers = [fastadam.torch.Adam([p]) for p in params]
for i in range(6):
    if i == 2:
        storages = [o.state[p]["exp_avg"].untyped_storage() for o, p in zip(optimizers, params)]
    if i == 5:
        storages[1]._share_filename_cpu_()
    for optimizer, p in zip(optimizers, params):
        p.grad = torch.ones(3)
        optimizer.step()
print(*[o.state[p]["exp_avg"][0].item() for o, p in zip(optimizers, params)])
"""


@once
def test_where_python_counts_fewer_references():
    one, other = run(BORROWING).split()
    assert one == other


@pytest.mark.parametrize("name", ["Adam", "NAdam"])
@pytest.mark.parametrize("cls", [torch.nn.Parameter, Intruder])
def test_ctrl_c_when_a_step_is_done(monkeypatch, name, cls):
    """Parameters, moments, counts and autograd's versions are those of whole steps."""

    def build():
        params = [torch.ones(4).as_subclass(Intruder) if cls is Intruder else cls(torch.ones(4))]
        return getattr(fastadam.torch, name)(params, lr=0.1)

    class Interrupted:
        """A batch that is interrupted before its optimizer can do anything more."""

        def __init__(self, *args):
            self.batch = real.Batch(*args)

        def step_held(self, *args):
            self.batch.step_held(*args)
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.batch, name)

    ours, real = build(), _backend.module()
    step(ours)
    with monkeypatch.context() as patch:
        patch.setattr(_optimizer, "EXCHANGE", None)
        patch.setattr(_backend, "module", lambda: type("", (), {"Batch": Interrupted}))
        ours.state  # noqa: B018
        entry(ours, 0)["exp_avg"] = entry(ours, 0)["exp_avg"].clone()  # so that all is done anew
        with pytest.raises(KeyboardInterrupt):
            step(ours)
    reference = build()
    step(reference, 2)
    assert content(ours) == content(reference)
    assert params_of(ours)[0]._version == params_of(reference)[0]._version
    for optimizer in (ours, reference):
        step(optimizer)
    assert content(ours) == content(reference)


@pytest.mark.parametrize("cls", [torch.nn.Parameter, Intruder])
def test_ctrl_c_while_versions_are_counted(monkeypatch, cls):
    def build():
        params = [torch.ones(4).as_subclass(Intruder) if cls is Intruder else cls(torch.ones(4))]
        return fastadam.torch.Adam(params, lr=0.1)

    ours = build()
    with monkeypatch.context() as patch:
        increment = _optimizer.INCREMENT_VERSIONS
        is_armed = []

        def increment_versions(tensors):
            increment(tensors)
            if is_armed:
                raise KeyboardInterrupt

        patch.setattr(_optimizer, "INCREMENT_VERSIONS", increment_versions)
        step(ours, 2)
        is_armed.append(True)
        with pytest.raises(KeyboardInterrupt):
            step(ours)
    reference = build()
    step(reference, int(entry(ours, 0)["step"]))
    assert content(ours) == content(reference)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("cls", [torch.nn.Parameter, Intruder])
def test_ctrl_c_at_any_moment(backend, cls):
    """(NumPy's steps are not whole, and parameters of other classes are stepped as arrays.)"""
    if backend == "numpy":
        return

    def build():
        params = [torch.ones(4) + i for i in range(20)]
        params = [p.as_subclass(Intruder) if cls is Intruder else cls(p) for p in params]
        return fastadam.torch.Adam(params, lr=0.1)

    def handler(*_):
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    armed = []
    ours, reference, other = build(), build(), build()
    for optimizer in (ours, reference, other):
        step(optimizer, 3)  # which imports what is imported only then
    start = time.perf_counter()
    step(other, 2)
    took = time.perf_counter() - start
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(200):
            try:
                armed.append(True)
                signal.setitimer(signal.ITIMER_REAL, took * (1 + i) / 200)
                step(ours, 10)
                armed.clear()
            except KeyboardInterrupt:
                pass
            (count,) = {int(state["step"]) for state in ours.state.values()}
            step(reference, count - int(entry(reference, 0)["step"]))
            assert content(ours) == content(reference)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_tensors_are_compiled_where_arrays_are():
    assert (_optimizer.Tensors is None) == (_backend.available == ["numpy"])


STEPS = """
import sys
sys.modules["fastadam.{missing}"] = None
import torch
import fastadam.torch
p = torch.nn.Parameter(torch.ones(3))
optimizer = fastadam.torch.Adam([p], lr=0.5)
for _ in range(3):
    p.grad = torch.ones(3)
    optimizer.step()
print(fastadam.show_config(mode="dicts")["backend"], optimizer._kept.tensors)
print(p.detach().numpy().tobytes().hex())
"""


@once
def test_one_extension_without_the_other():
    """If either was not compiled, all tensors become arrays."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fastadam.torch.Adam([p], lr=0.5)
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    expected = p.detach().numpy().tobytes().hex()
    backend = "numpy" if _backend.available == ["numpy"] else "c"
    for missing, found in (("torch._tensors", backend), ("_native", "numpy")):
        code = f"import os\nos.environ['FASTADAM_BACKEND'] = {found!r}\n" + STEPS
        assert run(code.replace("{missing}", missing)) == f"{found} None\n{expected}\n"


@once
@pytest.mark.parametrize(
    ("module", "name"),
    [("torch.autograd.graph", "increment_version"),
     ("torch.optim.optimizer", "_global_optimizer_pre_hooks"),
     ("torch.optim", "Optimizer.profile_hook_step")],
)  # fmt: skip
def test_another_pytorch(module, name):
    """One that is there, but lacks what the adapter uses."""
    code = f"import sys, {module}; del sys.modules['{module}'].{name}; import fastadam.torch"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: fastadam.torch cannot use PyTorch {torch.__version__}: ")
    assert name.rpartition(".")[2] in last


def test_a_group_that_computes_its_options():
    class Group(dict):
        lr = 1.0

        def __getitem__(self, key):
            return Group.lr if key == "lr" else super().__getitem__(key)

    p = torch.nn.Parameter(torch.zeros(2))
    opt = fastadam.torch.SGD([p], lr=1.0)
    opt.param_groups[0] = Group(opt.param_groups[0])
    for Group.lr in (1.0, 1.0, 0.0, 0.0):
        p.grad = torch.ones(2)
        opt.step()
    assert p.tolist() == [-2.0, -2.0]
