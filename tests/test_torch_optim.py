"""fastadam.torch against torch.optim, whose contracts it takes over.

Tolerances over 20 steps are those of test_torch.py, and for the same reasons.
"""

import copy
import ctypes
import inspect
import io
import itertools
import multiprocessing
import pickle
import re
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
from members import FIRST, OF_TORCH

import fastadam

torch = pytest.importorskip("torch")
register_optimizer_step_pre_hook = pytest.importorskip(
    "torch.optim.optimizer"
).register_optimizer_step_pre_hook
optimizers = pytest.importorskip("torch.testing._internal.common_optimizers")

import fastadam.torch  # noqa: E402
from fastadam.torch import _optimizer  # noqa: E402

NAMES = fastadam.torch.__all__
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
CONFIGS = {info.optim_cls.__name__: info for info in optimizers.optim_db}
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture(autouse=True)
def default_dtype():
    """torch keeps NAdam's product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pair(name, params, **options):
    """An optimizer of ours and of torch's, each with parameters of its own."""
    params = list(params)
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in params] for _ in range(2))
    return (
        getattr(fastadam.torch, name)(ours, **options),
        getattr(torch.optim, name)(theirs, **options),
    )


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_grads(optimizers, seed):
    """The same random gradients for all of them."""
    for optimizer in optimizers:
        generator = torch.Generator().manual_seed(seed)
        for p in params_of(optimizer):
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def step_all(optimizers, seed):
    """One step of each, with the same random gradients."""
    set_grads(optimizers, seed)
    for optimizer in optimizers:
        optimizer.step()


def difference(a, b):
    """The largest between two lists of tensors."""
    return max(float((p - q).detach().abs().max()) for p, q in zip(a, b, strict=True) if p.numel())


def network(dtype):
    """Like the one of torch's own tests."""
    torch.manual_seed(0)
    sigmoid = torch.nn.Sigmoid()
    layers = torch.nn.Linear(2, 3), sigmoid, torch.nn.Linear(3, 1), sigmoid
    return torch.nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OF_TORCH)
def test_torchs_own_configurations(name, dtype):
    x = torch.arange(0.1, 0.7, 0.1, dtype=dtype).reshape(3, 2)
    configs = CONFIGS[name].optim_inputs_func(device="cpu")
    assert len(configs) >= 5
    for config in configs:
        trained = []
        for module in (fastadam.torch, torch.optim):
            model = network(dtype)
            optimizer = getattr(module, name)(model.parameters(), **copy.deepcopy(config.kwargs))
            for _ in range(20):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
            trained.append(list(model.parameters()))
        assert difference(*trained) < TOLERANCE[dtype], config


@pytest.mark.parametrize("name", OF_TORCH)
def test_torchs_own_errors(name):
    for case in CONFIGS[name].optim_error_inputs_func(device="cpu", dtype=torch.float64):
        if case.error_on is optimizers.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            given = case.optimizer_error_input
            with pytest.raises(case.error_type) as error:
                getattr(fastadam.torch, name)(given.params, **given.kwargs)
            assert re.search(case.error_regex, str(error.value))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_arrays(name, dtype):
    """Whatever the layout of a parameter and of its gradient."""
    draw = torch.Generator().manual_seed(1)

    def numbers(*shape):
        return torch.randn(shape, dtype=dtype, generator=draw)

    tensors = [
        numbers(3, 4),
        numbers(5, 7).t(),
        numbers(9)[::2],
        numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
        numbers(),
        numbers(0, 3),
        numbers(1),
    ]
    arrays = [t.numpy().copy() for t in tensors]
    params = [torch.nn.Parameter(t) for t in tensors]
    optimizer = getattr(fastadam.torch, name)(params, lr=0.1)
    reference = getattr(fastadam, name)(arrays, lr=0.1)
    for i in range(3):
        grads = [numbers(*p.shape) for p in params]
        if i == 1:  # no gradient lies as its parameter
            grads = [torch.stack([g, g], -1)[..., 0] for g in grads]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        reference.step([g.numpy() for g in grads])
        for p, array in zip(params, arrays, strict=True):
            assert p.detach().numpy().tobytes() == array.tobytes()


def test_plain_tensors_take_one_call(backend):
    optimizer, _ = pair("AdamW", [torch.randn(3, 4), torch.randn(5)])
    set_grads([optimizer], 0)
    optimizer.step()
    tensors = optimizer._kept.tensors
    assert (tensors is None) == (backend == "numpy")
    for _ in range(3):
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
    assert optimizer._kept.tensors is tensors
    if tensors is not None:
        assert not tensors.is_shared  # so it does not look at the state
        kept = optimizer.state
        optimizer.step()
        assert tensors.is_shared
        del kept
        optimizer.step()
        assert not tensors.is_shared


def moved(tensor):
    tensor.data = tensor.data.clone()


def entry(optimizer, i=0):
    return optimizer.state[params_of(optimizer)[i]]


DISTURBANCES = {
    "nothing": lambda o: None,
    "parameter data replaced": lambda o: moved(params_of(o)[0]),
    "parameter data doubled": lambda o: params_of(o)[0].data.mul_(2),
    "parameter transposed": lambda o: setattr(params_of(o)[0], "data", params_of(o)[0].data.t()),
    "parameter shared": lambda o: params_of(o)[0].data.share_memory_(),
    "state data replaced": lambda o: [moved(t) for t in entry(o).values()],
    "state tensor replaced": lambda o: entry(o).update(exp_avg=entry(o)["exp_avg"] * 2),
    "state shared": lambda o: [t.share_memory_() for t in entry(o).values()],
    "state emptied": lambda o: o.state.clear(),
    "state of one removed": lambda o: o.state.pop(params_of(o)[1]),
    "state replaced": lambda o: setattr(o, "state", type(o.state)(dict)),
    "state copied": lambda o: o.load_state_dict(copy.deepcopy(o.state_dict())),
    "step count changed": lambda o: entry(o)["step"].fill_(10),
    "step count replaced": lambda o: entry(o).update(step=torch.tensor(5.0)),
    "float32 step count": lambda o: entry(o).update(step=torch.tensor(5.0, dtype=torch.float32)),
    "no gradient": lambda o: setattr(params_of(o)[0], "grad", None),
    "learning rate": lambda o: o.param_groups[0].update(lr=0.02),
    "betas": lambda o: o.param_groups[0].update(betas=(0.7, 0.9)),
    "tensor learning rate": lambda o: o.param_groups[0].update(lr=torch.tensor(0.03)),
    "group added": lambda o: o.add_param_group({"params": torch.nn.Parameter(torch.ones(2))}),
    "parameter appended": lambda o: o.param_groups[0]["params"].append(
        torch.nn.Parameter(torch.ones(2))
    ),
    "parameter removed": lambda o: o.param_groups[0]["params"].pop(),
    "parameters reversed": lambda o: o.param_groups[0]["params"].reverse(),
    "an entry more": lambda o: entry(o).update(mine=torch.ones(1)),
    "a key more": lambda o: o.param_groups[0].update(mine=1),
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES.keys())
def test_what_happens_between_steps_is_seen(disturb):
    params = [torch.randn(3, 3), torch.randn(4), torch.randn(1)]
    both = pair("Adam", params, lr=0.1, foreach=False)
    for seed in range(8):
        set_grads(both, seed)
        if seed == 3:
            for optimizer in both:
                disturb(optimizer)
        for optimizer in both:
            optimizer.step()
    assert difference(*map(params_of, both)) < 1e-12
    for ours, theirs in zip(both[0].state.values(), both[1].state.values(), strict=True):
        assert ours["step"] == theirs["step"]


@pytest.mark.parametrize("what", ["state", "entry", "tensor"])
def test_state_that_somebody_kept_is_looked_at(what):
    both = pair("Adam", [torch.randn(3), torch.randn(4)], lr=0.1)
    kept = []
    for seed in range(6):
        step_all(both, seed)
        if seed == 1:
            state = [optimizer.state for optimizer in both]
            entries = [entry(optimizer) for optimizer in both]
            tensors = [e["exp_avg"] for e in entries]
            kept = {"state": state, "entry": entries, "tensor": tensors}[what]
            del state, entries, tensors
        if seed == 3:
            for optimizer, part in zip(both, kept, strict=True):
                if what == "state":
                    part.pop(params_of(optimizer)[0])
                elif what == "entry":
                    part["exp_avg"] = torch.ones(3)
                else:
                    part.data = torch.ones(3)
    assert difference(*map(params_of, both)) < 1e-12


@pytest.mark.parametrize("what", ["view", "array", "weak reference", "storage"])
def test_memory_of_the_state_that_somebody_kept_is_looked_at(what):
    both = pair("Adam", [torch.randn(3), torch.randn(4)], lr=0.1)
    kept = []
    for seed in range(8):
        step_all(both, seed)
        if seed == 1:
            for optimizer in both:
                e = entry(optimizer)
                kept.append(
                    {
                        "view": lambda e=e: [t.detach() for t in e.values()],
                        "array": lambda e=e: e["step"].numpy(),
                        "weak reference": lambda e=e: weakref.ref(e["step"]),
                        "storage": lambda e=e: e["exp_avg"].untyped_storage(),
                    }[what]()
                )
                del e
        if seed == 4:
            for part in kept:
                if what == "view":
                    for t in part:
                        t.share_memory_()
                elif what == "array":
                    part[...] = 50
                elif what == "weak reference":
                    part().fill_(50)
                else:
                    part.share_memory_()
    assert difference(*map(params_of, both)) < 1e-12
    assert entry(both[0])["step"] == entry(both[1])["step"]


def steps_in_child(optimizer, n):
    for _ in range(n):
        optimizer.step()


def test_state_shared_by_processes():
    """As Hogwild's: two processes take turns."""
    ours, _ = pair("Adam", [torch.ones(3)], lr=0.1)
    (p,) = params_of(ours)
    p.share_memory_()
    set_grads([ours], 0)
    ours.step()
    for tensor in entry(ours).values():
        tensor.share_memory_()
    for _ in range(2):
        ours.step()
        child = multiprocessing.get_context("fork").Process(target=steps_in_child, args=(ours, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child.start()
        child.join()
        assert child.exitcode == 0
    ours.step()
    assert entry(ours)["step"] == 10


def test_graphs_that_are_older_than_a_step_are_refused():
    w = torch.nn.Parameter(torch.ones(2))
    other = torch.nn.Parameter(torch.ones(2))
    ours = fastadam.torch.Adam([w, other])
    for _ in range(3):
        loss = (w * w * other).sum()
        loss.backward(retain_graph=True)
        ours.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    other.grad = None
    loss = (other * 2 * other).sum()
    ours.step()
    loss.backward()  # `other` was not stepped


def test_entries_that_are_not_ours():
    slab = torch.tensor([0.45, 7.0, 0.5, 7.0], dtype=torch.float32)
    ours, _ = pair("Adam", [torch.ones(2)])
    plain, _ = pair("SGD", [torch.ones(2)], momentum=0.9)
    for optimizer in (ours, plain):
        set_grads([optimizer], 0)
        optimizer.step()
        entry(optimizer)["mu_product"] = slab[0]
    entry(plain)["step"] = 0
    for _ in range(3):
        ours.step()
        plain.step()
    assert slab.tolist() == torch.tensor([0.45, 7.0, 0.5, 7.0], dtype=torch.float32).tolist()
    assert entry(plain)["step"] == 0


def test_empty_parameters_count_steps():
    both = pair("Adam", [torch.ones(0, 2), torch.ones(2)])
    for seed in range(5):
        step_all(both, seed)
    assert [entry(o)["step"].item() for o in both] == [5, 5]


def test_default_device_and_inference_mode():
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(3)])
    with torch.device("meta"):
        params_of(ours)[0].grad = torch.ones(2, device="cpu")
        ours.step()
    assert entry(ours)["step"].device.type == "cpu"
    with torch.inference_mode():
        fresh, _ = pair("Adam", [torch.ones(2), torch.ones(3)])
    for optimizer in (ours, fresh):
        params = params_of(optimizer)
        params[0].grad = torch.ones(2)
        with torch.inference_mode():
            optimizer.step()
        optimizer.step()
        params[1].grad = torch.ones(3)
        optimizer.step()
    assert entry(ours)["step"] == 4
    assert entry(fresh)["step"] == 3


def test_state_that_is_made_lazy():
    both = pair("SGD", [torch.ones(2, dtype=torch.complex128)], lr=0.1, momentum=0.9)
    for seed in range(6):
        set_grads(both, seed)
        for optimizer in both:
            optimizer.step()
            if seed == 2 and optimizer is both[1]:
                buffer = entry(optimizer)["momentum_buffer"]
                buffer.data = buffer.data.conj().resolve_conj()
            elif seed == 2:
                buffer = entry(optimizer)["momentum_buffer"]
                buffer.data = buffer.data.conj()
                with pytest.raises(RuntimeError, match=r"momentum_buffer.*resolve_conj"):
                    optimizer.step()
                buffer.data = buffer.data.resolve_conj()
    assert difference(*map(params_of, both)) < 1e-12


def test_a_frozen_layer_may_become_anything():
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(3)])
    set_grads([ours], 0)
    ours.step()
    frozen = params_of(ours)[1]
    frozen.grad = None
    frozen.data = torch.empty(0, dtype=torch.bfloat16)
    ours.state  # noqa: B018
    for _ in range(2):
        ours.step()
    assert entry(ours)["step"] == 3


def test_an_error_in_the_first_step_leaves_no_state(monkeypatch):
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(3)])
    set_grads([ours], 0)
    params_of(ours)[1].grad = torch.eye(3).to_sparse()[0].coalesce()
    params_of(ours)[0].grad = None
    ours.step()
    ours.state.clear()
    ours.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match="weight_decay"):
        ours.step()
    assert not ours.state


def test_odd_gradients_do_not_slow_all_that_follows(backend):
    ours, _ = pair("Adam", [torch.ones(4, 4), torch.ones(4, 4).t(), torch.ones(8)[::2]])
    for p in params_of(ours):
        p.grad = torch.ones(1).expand(p.shape)
    ours.step()
    tensors = ours._kept.tensors
    set_grads([ours], 0)
    ours.step()
    assert ours._kept.tensors is tensors
    assert (tensors is None) == (backend == "numpy")


def test_hooks_of_subclasses_run_once():
    class Mine(fastadam.torch.Adam):
        def step(self, closure=None):
            return super().step(closure)

    calls = []
    for cls in (Mine, fastadam.torch.Adam):
        ours = cls([torch.ones(2)])
        ours.register_step_pre_hook(lambda opt, args, kwargs: calls.append((len(args), kwargs)))
        ours.register_step_pre_hook(lambda opt, args, kwargs: ((opt,), {}))
        ours.step()
    assert calls == [(1, {}), (1, {})]


def test_compiled_training_loops():
    both = pair("Adam", [torch.ones(2)], lr=0.1)

    for optimizer in both:
        (p,) = params_of(optimizer)

        def loop(p=p, optimizer=optimizer):
            p.grad = 2 * p.detach()
            optimizer.step()

        compiled = torch.compile(loop, backend="eager")
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled()
    assert difference(*map(params_of, both)) < 1e-12


def test_parameters_take_turns():
    """As experts do: each step has gradients for some of them."""
    both = pair("Adam", [torch.randn(3) for _ in range(4)], lr=0.1)
    for seed, absent in enumerate(itertools.combinations(range(4), 2)):
        set_grads(both, seed)
        for optimizer in both:
            for i in absent:
                params_of(optimizer)[i].grad = None
            optimizer.step()
    assert difference(*map(params_of, both)) < 1e-12


@pytest.mark.parametrize("name", OF_TORCH)
def test_state_dicts_load_both_ways(name):
    both = pair(name, [torch.randn(3, 4), torch.randn(5)], lr=0.1, **FIRST[name])
    for _ in range(2):
        for seed in range(3):
            step_all(both, seed)
        dicts = [copy.deepcopy(optimizer.state_dict()) for optimizer in both]
        assert dicts[0]["state"].keys() == dicts[1]["state"].keys()
        for i, theirs in dicts[1]["state"].items():
            assert set(dicts[0]["state"][i]) == set(theirs)
        for optimizer, state_dict in zip(both, reversed(dicts), strict=True):
            optimizer.load_state_dict(state_dict)
    assert difference(*map(params_of, both)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("foreach", [False, True])
def test_a_float32_training_goes_on_in_torch(foreach, dtype):
    torch.set_default_dtype(torch.float32)
    ours, theirs = pair("Adam", [torch.randn(4, dtype=dtype)], lr=0.1, foreach=foreach)
    for seed in range(4):
        set_grads([ours, theirs], seed)
        ours.step()
        theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
        theirs.step()
        assert theirs.state_dict()["state"][0]["step"] == seed + 2


def test_saved_with_weights_only():
    ours, _ = pair("AdamW", [torch.randn(3, 4)], lr=0.1)
    set_grads([ours], 0)
    ours.step()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    other, _ = pair("AdamW", [params_of(ours)[0].detach()])
    other.load_state_dict(torch.load(file, weights_only=True))
    for optimizer in (ours, other):
        set_grads([optimizer], 1)
        optimizer.step()
    assert torch.equal(params_of(ours)[0], params_of(other)[0])
    assert other.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("name", OF_TORCH)
def test_copies(name, copied):
    ours, _ = pair(name, [torch.randn(3, 4), torch.randn(5)], lr=0.1)
    set_grads([ours], 0)
    ours.step()
    other = copied(ours)
    assert type(other) is type(ours)
    before = params_of(ours)[0].detach().clone()
    set_grads([other], 1)
    other.step()
    assert torch.equal(params_of(ours)[0], before)
    set_grads([ours], 1)
    ours.step()
    assert torch.equal(params_of(ours)[0], params_of(other)[0])


def test_epsilon_hat():
    p, array = torch.nn.Parameter(torch.ones(3)), np.ones(3)
    ours = fastadam.torch.Adam([p], lr=0.1, eps=0.1, epsilon_hat=True)
    reference = fastadam.Adam(array, lr=0.1, eps=0.1, epsilon_hat=True)
    ours.load_state_dict(torch.optim.Adam([p], lr=0.1, eps=0.1).state_dict())  # keeps the option
    for _ in range(3):
        p.grad = torch.tensor([1.0, 2.0, 3.0])
        ours.step()
        reference.step(p.grad.numpy())
    assert p.detach().numpy().tobytes() == array.tobytes()
    ours.add_param_group({"params": torch.nn.Parameter(torch.ones(1))})
    assert ours.param_groups[1]["epsilon_hat"] is True


def test_schedulers():
    both = pair("AdamW", [torch.randn(3)], lr=0.1)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=20)
        for optimizer in both
    ]
    for seed in range(15):
        set_grads(both, seed)
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert both[0].param_groups[0]["betas"] == both[1].param_groups[0]["betas"] != (0.9, 0.999)
    assert difference(*map(params_of, both)) < 1e-12


def test_tensor_learning_rate_that_a_scheduler_fills():
    both = pair("Adam", [torch.randn(3)], lr=0.1)
    for optimizer in both:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in both]
    for seed in range(5):
        set_grads(both, seed)
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert difference(*map(params_of, both)) < 1e-12


def test_a_learning_rate_with_axes():
    both = pair("Adam", [torch.randn(3)], lr=0.1, foreach=False)
    for optimizer in both:
        optimizer.param_groups[0]["lr"] = torch.tensor([0.3])
    for seed in range(3):
        step_all(both, seed)
    assert difference(*map(params_of, both)) < 1e-7  # torch's is float32
    both[0].param_groups[0]["lr"] = torch.tensor([0.3, 0.2])
    with pytest.raises(TypeError, match="lr must be a real number"):
        both[0].step()


def test_closures_and_what_they_return():
    ours, _ = pair("SGD", [torch.ones(2)], lr=0.5)
    (p,) = params_of(ours)

    def closure():
        ours.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert ours.step(closure) == 2
    assert torch.equal(p, torch.zeros(2))
    assert ours.step() is None


def test_hooks_and_profiler():
    ours, _ = pair("Adam", [torch.ones(2)])
    set_grads([ours], 0)
    calls = []
    handles = [
        ours.register_step_pre_hook(lambda *args: calls.append("pre")),
        ours.register_step_post_hook(lambda *args: calls.append("post")),
        register_optimizer_step_pre_hook(lambda *args: calls.append("all")),
    ]
    ours.step()
    for handle in handles:
        handle.remove()
    ours.step()
    assert calls == ["all", "pre", "post"]
    with torch.profiler.profile() as profile:
        ours.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}
    assert entry(ours)["step"] == 3


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_grad_scaler(options):
    both = pair("Adam", [torch.ones(3)], lr=0.1, **options)
    scalers = [torch.amp.GradScaler("cpu", init_scale=64.0) for _ in both]
    for factor in (1.0, float("inf"), 2.0):
        for optimizer, scaler in zip(both, scalers, strict=True):
            (p,) = params_of(optimizer)
            optimizer.zero_grad()
            scaler.scale((p * p * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert difference(*map(params_of, both)) < 1e-7
    assert entry(both[0])["step"] == 2


def test_lazily_conjugated_and_negated_gradients():
    z = torch.tensor([1 + 2j, 3 - 1j])
    conjugated = z.conj()
    negated = torch.tensor([1 + 2j]).conj().imag
    assert conjugated.is_conj()
    assert negated.is_neg()
    both = pair("SGD", [torch.zeros(2, dtype=z.dtype), torch.zeros(1)], lr=1.0)
    for _ in range(2):
        for optimizer in both:
            for p, g in zip(params_of(optimizer), (conjugated, negated), strict=True):
                p.grad = g
            optimizer.step()
    assert difference(*map(params_of, both)) == 0


def test_gradient_in_the_memory_of_a_parameter():
    both = pair("Adam", [torch.arange(12.0)], lr=0.1)
    for _ in range(3):
        for optimizer in both:
            (p,) = params_of(optimizer)
            p.grad = p.data
            optimizer.step()
    assert difference(*map(params_of, both)) < 1e-13


def test_an_embeddings_sparse_gradient():
    table = torch.nn.Embedding(10, 3, sparse=True)
    weight = torch.nn.Parameter(torch.ones(3))
    array, vector = table.weight.detach().numpy().copy(), np.ones(3)
    ours = fastadam.torch.Adam([table.weight, weight], lr=0.1)
    reference = fastadam.Adam([array, vector], lr=0.1)
    for words in ([1, 5, 1], [7, 2], [5, 5]):
        ours.zero_grad()
        (table(torch.tensor(words)) * weight).sum().backward()
        sparse = table.weight.grad
        assert sparse.is_sparse
        rows = fastadam.RowGrad(sparse._indices()[0].numpy(), sparse._values().numpy())
        grads = [rows, weight.grad.numpy().copy()]
        ours.step()
        reference.step(grads)
    assert table.weight.detach().numpy().tobytes() == array.tobytes()
    assert weight.detach().numpy().tobytes() == vector.tobytes()


@pytest.mark.parametrize(
    ("grad", "options", "message"),
    [
        (torch.eye(3).to_sparse(), {}, "does not support sparse gradients"),
        (torch.eye(3).to_sparse(1), {"weight_decay": 0.1}, "weight_decay"),
    ],
)
def test_sparse_gradients_that_cannot_be(grad, options, message):
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(3, 3)], **options)
    params_of(ours)[0].grad = torch.ones(2)
    params_of(ours)[1].grad = grad.double()
    with pytest.raises((RuntimeError, ValueError), match=message):
        ours.step()
    assert not ours.state
    assert torch.equal(params_of(ours)[0], torch.ones(2))


@pytest.mark.parametrize("option", ["capturable", "differentiable"])
@pytest.mark.parametrize("name", sorted(set(OF_TORCH) - {"SGD"}))
def test_options_that_cannot_be(name, option):
    with pytest.raises(RuntimeError, match=option):
        getattr(fastadam.torch, name)([torch.ones(2)], **{option: True})
    ours, _ = pair(name, [torch.ones(2)])
    with pytest.raises(RuntimeError, match=option):
        ours.add_param_group({"params": [torch.ones(3)], option: True})
    assert len(ours.param_groups) == 1
    set_grads([ours], 0)
    ours.param_groups[0][option] = True
    with pytest.raises(RuntimeError, match=option):
        ours.step()


BAD = [
    torch.ones(2).to(torch.float8_e4m3fn),
    torch.ones(2).to(torch.float8_e5m2),
    torch.ones(2, device="meta"),
]


@pytest.mark.parametrize("param", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_cannot_be_are_refused_at_once(name, param):
    good, other, bad = (torch.nn.Parameter(p) for p in (torch.ones(2), torch.ones(3), param))
    cls = getattr(fastadam.torch, name)
    message = (
        r"^param_groups\[{}\]\['params'\]\[{}\]: .* float32, float64, complex64, complex128, "
        rf".*\['cpu'\] but found {param.dtype} on {param.device}; .*torch\.optim"
    )
    with pytest.raises(RuntimeError, match=message.format(0, 1)):
        cls([good, bad])
    with pytest.raises(RuntimeError, match=message.format(1, 0)):
        cls([{"params": [good]}, {"params": bad}])
    ours = cls([good])
    group = {"params": iter([other, bad]), "lr": 0.5}
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message.format(1, 1)):
            ours.add_param_group(group)
        assert params_of(ours) == [good]
    ours.add_param_group({"params": other})  # which the refused group does not hold
    set_grads([ours], 0)
    ours.step()


@pytest.mark.parametrize("param", BAD)
def test_frozen_parameters_may_be_anything_without_a_gradient(param):
    good = torch.nn.Parameter(torch.ones(2))
    bad = torch.nn.Parameter(param, requires_grad=False)
    ours = fastadam.torch.Adam([good, bad])
    good.grad = torch.ones(2)
    ours.step()  # `bad` has no gradient
    bad.grad = torch.ones_like(param)
    before = good.detach().clone()
    with pytest.raises(RuntimeError, match=r"\['params'\]\[1\].*float32.*supported devices"):
        ours.step()
    assert torch.equal(good, before)
    assert entry(ours)["step"] == 1
    assert bad not in ours.state


def test_a_parameter_that_becomes_another():
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(2)])
    set_grads([ours], 0)
    ours.step()
    p = params_of(ours)[1]
    p.data = p.data.bfloat16()
    with pytest.raises(TypeError, match=r"exp_avg.*is torch.float64, expected torch.float32"):
        ours.step()
    assert entry(ours)["step"] == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda e: e.pop("exp_avg"), KeyError),
        (lambda e: e.pop("step"), KeyError),
        (lambda e: e.update(step=torch.tensor(1.5)), TypeError),
        (lambda e: e.update(step=torch.tensor(-1.0)), ValueError),
        (lambda e: e.update(step=torch.tensor(float("nan"))), TypeError),
        (lambda e: e.update(exp_avg=torch.ones(3)), ValueError),
        (lambda e: e.update(exp_avg=torch.ones(2, dtype=torch.float32)), TypeError),
        (lambda e: e.update(exp_avg_sq=e["exp_avg"]), ValueError),
        (lambda e: e["step"].fill_(0.5), TypeError),
    ],
)
def test_state_that_cannot_be(change, error):
    ours, _ = pair("Adam", [torch.ones(2), torch.ones(2)])
    set_grads([ours], 0)
    ours.step()
    change(entry(ours, 1))
    before = [p.detach().clone() for p in params_of(ours)]
    for _ in range(2):
        with pytest.raises(error, match=r"param_groups\[0\]\['params'\]\[1\]"):
            ours.step()
    assert difference(before, params_of(ours)) == 0
    assert entry(ours)["step"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_function_as_learning_rate_names_what_to_use(name):
    message = r"^lr is a function; .*torch\.optim\.lr_scheduler"
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    cls = getattr(fastadam.torch, name)
    for lr in (lambda finished: 0.1, fastadam.schedules.constant(0.1)):
        with pytest.raises(TypeError, match=message):
            cls([p], lr=lr)
        ours = cls([p])
        with pytest.raises(TypeError, match=message):
            ours.add_param_group({"params": q, "lr": lr})
        assert len(ours.param_groups) == 1
        set_grads([ours], 0)
        ours.param_groups[0]["lr"] = lr
        with pytest.raises(TypeError, match=message):
            ours.step()
        assert torch.equal(p, torch.ones(2))


@pytest.mark.parametrize("name", OF_TORCH)
def test_signatures_are_torchs(name):
    ours, theirs = (
        [
            (p.name, p.kind, p.default)
            for p in inspect.signature(getattr(module, name)).parameters.values()
        ]
        for module in (fastadam.torch, torch.optim)
    )
    options = {"epsilon_hat": False} if name in ("Adam", "AdamW") else {}
    options |= {"state_dtype": None, "seed": 0}
    more = [(key, inspect.Parameter.KEYWORD_ONLY, value) for key, value in options.items()]
    assert ours == theirs + more
    with pytest.raises(TypeError, match="unexpected keyword argument 'wheight_decay'"):
        getattr(fastadam.torch, name)([torch.ones(2)], wheight_decay=3)


@pytest.mark.parametrize("name", OF_TORCH)
def test_every_option_arrives(name):
    """Each as it was given, by position as far as torch's class takes it so."""
    parameters = list(inspect.signature(getattr(torch.optim, name)).parameters.values())[1:]
    values = {
        bool: lambda default: not default,
        type(None): lambda default: False,
        float: lambda default: default / 2 + 0.01,
        int: lambda default: 0.5,
        tuple: lambda default: tuple(number / 2 for number in default),
    }
    given = {
        p.name: p.default
        if p.name in ("capturable", "differentiable", "dampening")
        else values[type(p.default)](p.default)
        for p in parameters
    }
    positional = [given[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = {p.name: given[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    for module in (fastadam.torch, torch.optim):
        group = getattr(module, name)([torch.ones(2)], *positional, **rest).param_groups[0]
        assert {key: group[key] for key in given} == given


@pytest.mark.parametrize("name", OF_TORCH)
def test_a_state_dict_of_arrays_once_they_are_tensors(name):
    """What the module's docstring says of the way from fastadam.Adam to torch."""
    options = FIRST[name]
    array = np.array([1.0, -2.0, 3.0])
    arrays = getattr(fastadam, name)([array], lr=0.1, **options)
    for _ in range(3):
        arrays.step([array * 2])
    both = pair(name, [torch.from_numpy(array)], **options)
    gradient = np.array([3.0, 1.0, -1.0])
    for optimizer in both:
        state_dict = arrays.state_dict()
        with pytest.raises(TypeError):
            optimizer.load_state_dict(state_dict)
        for state in state_dict["state"].values():
            for key, value in state.items():
                if isinstance(value, np.ndarray):
                    state[key] = torch.from_numpy(value)
        optimizer.load_state_dict(state_dict)
        params_of(optimizer)[0].grad = torch.from_numpy(gradient)
        optimizer.step()
    arrays.step([gradient])
    for optimizer in both:
        (p,) = params_of(optimizer)
        assert np.abs(p.detach().numpy() - array).max() < 1e-9


def test_a_bad_option_names_itself():
    ours, _ = pair("Adam", [torch.ones(2)])
    set_grads([ours], 0)
    ours.step()
    for bad in (-1.0, float("nan"), "fast", lambda step: 0.1):
        ours.param_groups[0]["lr"] = bad
        with pytest.raises((ValueError, TypeError), match=r"lr|learning rate"):
            ours.step()
    assert entry(ours)["step"] == 1


def test_step_counts_do_not_stop():
    ours, _ = pair("Adam", [torch.ones(2)])
    set_grads([ours], 0)
    ours.step()
    for count in (2**24, 2**40):
        entry(ours)["step"].fill_(count)
        ours.step()
        ours.step()
        assert entry(ours)["step"] == count + 2


def test_options_that_ask_for_state_later():
    ours, theirs = pair("SGD", [torch.randn(3), torch.randn(2)], lr=0.1)
    for seed in range(6):
        set_grads([ours, theirs], seed)
        for optimizer in (ours, theirs):
            if seed == 2:
                optimizer.param_groups[0].update(momentum=0.9, dampening=0.5)
            optimizer.step()
    assert difference(params_of(ours), params_of(theirs)) < 1e-13


def test_subclasses_of_tensors_and_of_optimizers():
    class Mine(torch.Tensor):
        pass

    class MyAdam(fastadam.torch.Adam):
        pass

    p = torch.ones(2).as_subclass(Mine).requires_grad_()
    ours = MyAdam([p], lr=0.5)
    for _ in range(2):
        p.grad = torch.ones(2)
        ours.step()
    assert torch.allclose(p.detach().as_subclass(torch.Tensor), torch.zeros(2), atol=1e-6)
    assert isinstance(ours, torch.optim.Adam)


def test_threads_take_turns():
    from concurrent.futures import ThreadPoolExecutor

    ours, _ = pair("Adam", [torch.ones(20_000), torch.ones(3)])
    set_grads([ours], 0)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(ours.step) for _ in range(100)]:
            done.result()
    assert entry(ours)["step"] == 100


def test_no_more_threads_than_torch(backend, monkeypatch):
    if backend == "numpy":
        return
    asked = []
    real = _optimizer.Tensors

    class Tensors:
        def __init__(self, *args):
            self.tensors = real(*args)

        def step(self, groups, most_threads):
            asked.append(most_threads)
            return self.tensors.step(groups, most_threads)

    monkeypatch.setattr(_optimizer, "Tensors", Tensors)
    ours, _ = pair("Adam", [torch.ones(2)])
    set_grads([ours], 0)
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            ours.step()
            ours.step()
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 1, 2, 2]


def capsule(version):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    return new(ctypes.addressof(version), b"dlpack_exchange_api", None)


@pytest.mark.parametrize("version", [None, (ctypes.c_uint32 * 32)(2, 0)])
def test_without_the_exchange_api(monkeypatch, version):
    monkeypatch.setattr(_optimizer, "EXCHANGE", None if version is None else capsule(version))
    both = pair("Adam", [torch.randn(3), torch.randn(2)], lr=0.1)
    for seed in range(4):
        step_all(both, seed)
    assert both[0]._kept.tensors is None
    assert difference(*map(params_of, both)) < 1e-12


def test_without_torch(backend):
    code = "import sys; sys.modules['torch'] = None; import fastadam.torch"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "fastadam.torch needs PyTorch: pip install torch" in result.stderr
