"""What engines that offload do with an optimizer, as small copies of their calls.

They were read in DeepSpeed 0.19.8 (runtime/zero/stage_1_and_2.py, stage3.py), Megatron-core 0.16.1
(core/optimizer/cpu_offloading/hybrid_optimizer.py) and torchao 0.18.0 (optim/cpu_offload.py).
"""

import gc
import tracemalloc
from collections import defaultdict

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EVERY = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def draw(i, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(i)
    return torch.randn(*shape, generator=generator).to(dtype)


def reference(values, grads, **options):
    """What steps of an optimizer of its own make of each tensor."""
    found = []
    for i, value in enumerate(values):
        param = torch.nn.Parameter(value.clone())
        optimizer = fastadam.torch.AdamW([param], **options)
        for step in grads:
            param.grad = step[i].clone()
            optimizer.step()
        found.append(param.detach())
    return found


def assert_equal(found, expected):
    assert all(map(torch.equal, found, expected))


# DeepSpeed


@EVERY
def test_stages_1_and_2(dtype):
    """A group's parameters are one flat tensor, and groups are stepped one by one."""
    values = [draw(1, 1000, dtype=dtype), draw(2, 300, dtype=dtype)]
    grads = [[draw(10 + i, 1000), draw(20 + i, 300)] for i in range(5)]
    flat = [value.clone() for value in values]
    for tensor in flat:
        tensor.requires_grad = True
    optimizer = fastadam.torch.AdamW([{"params": [tensor]} for tensor in flat], lr=0.1)
    for group in optimizer.param_groups:
        group["step"] = None
    for step in grads:
        for number, grad in enumerate(step):
            flat[number].grad = grad.to(dtype)
            groups = optimizer.param_groups
            optimizer.param_groups = [groups[number]]
            optimizer.step()
            optimizer.param_groups = groups
            flat[number].grad = None
    grads = [[grad.to(dtype) for grad in step] for step in grads]
    assert_equal([t.detach() for t in flat], reference(values, grads, lr=0.1))
    assert all(optimizer.state[tensor]["step"] == 5 for tensor in flat)


def test_state_that_becomes_views():
    """When a checkpoint is loaded, state is cut to the length without padding, as a view."""
    values, grads = [draw(1, 1000)], [[draw(10 + i, 1000)] for i in range(6)]
    param = torch.nn.Parameter(values[0].clone())
    optimizer = fastadam.torch.AdamW([param], lr=0.1)
    for i, (grad,) in enumerate(grads):
        if i == 3:
            entry = optimizer.state[param]
            for name in ("exp_avg", "exp_avg_sq"):
                padded = torch.cat([entry[name], torch.zeros(24)])
                entry[name] = padded.narrow(0, 0, 1000)
        param.grad = grad
        optimizer.step()
    assert_equal([param.detach()], reference(values, grads, lr=0.1))


@EVERY
def test_stage_3(dtype):
    """Groups hold no parameters but while one of them is stepped."""
    values = [draw(1, 500, dtype=dtype), draw(2, 400, dtype=dtype), draw(3, 300, dtype=dtype)]
    grads = [[draw(10 * i + k, len(values[k]), dtype=dtype) for k in range(3)] for i in range(5)]
    flat = [torch.nn.Parameter(value.clone()) for value in values]
    optimizer = fastadam.torch.AdamW([{"params": flat[:2]}, {"params": flat[2:]}], lr=0.1)
    for group in optimizer.param_groups:
        group["params"] = []
    for step in grads:
        for k, grad in enumerate(step):
            group = optimizer.param_groups[k // 2]
            flat[k].grad = grad
            group["params"] = [flat[k]]
            optimizer.step()
            group["params"] = []
            flat[k].grad = None
    assert_equal([t.detach() for t in flat], reference(values, grads, lr=0.1))


# Megatron-core


@EVERY
def test_hybrid_device_optimizer(dtype):
    """An optimizer for each tensor: no Parameter, with a gradient but requires_grad=False."""
    values = [draw(1, 64, 20, dtype=dtype), draw(2, 300, dtype=dtype)]
    grads = [[draw(10 * i + k, *values[k].shape, dtype=dtype) for k in range(2)] for i in range(6)]
    copies = [value.clone() for value in values]
    foreign = {"wd_mult": 1.0, "lr_mult": 1.0, "is_expert_parallel": False, "max_lr": 0.1}
    optimizers = [
        fastadam.torch.AdamW([{"params": [copied], "lr": 0.1, **foreign}]) for copied in copies
    ]
    done = []
    for optimizer in optimizers:
        optimizer.register_step_post_hook(lambda own, *_: done.append(own))
    for i, step in enumerate(grads):
        for copied, grad, optimizer in zip(copies, step, optimizers, strict=True):
            copied.grad = grad
            optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
            if i == 3:  # as when a state dict is taken over
                optimizer.state = defaultdict(dict, optimizer.state)
            optimizer.step()
            if dtype == torch.float32:  # param_update_in_fp32
                optimizer.state[copied]["master_param"] = copied
    assert len(done) == 12
    assert_equal(copies, reference(values, grads, lr=0.1))


# torchao


@EVERY
def test_cpu_offload_optimizer(dtype):
    """An optimizer for each tensor of the model's dtype, which comes alone and not in a list."""
    values = [draw(1, 64, 20, dtype=dtype), draw(2, 5000, dtype=dtype)]
    grads = [[draw(10 * i + k, *values[k].shape, dtype=dtype) for k in range(2)] for i in range(5)]
    hosts, optimizers = [], []
    for value in values:
        host = torch.empty_like(value)
        host.copy_(value)
        host.grad = torch.empty_like(host)
        hosts.append(host)
        optimizers.append(fastadam.torch.AdamW([{"params": host, "lr": 0.1}], weight_decay=0.01))
    for step in grads:
        for host, grad, optimizer in zip(hosts, step, optimizers, strict=True):
            host.grad.copy_(grad)
            optimizer.step()
    assert_equal(hosts, reference(values, grads, lr=0.1))
    saved = [optimizer.state_dict() for optimizer in optimizers]
    for optimizer, state_dict in zip(optimizers, saved, strict=True):
        optimizer.load_state_dict(state_dict)
        assert next(iter(optimizer.state.values()))["step"] == 5


# All of them


def test_parameters_that_are_freed_and_made_again():
    """What an optimizer kept of tensors that are gone is not taken for that of new ones."""
    optimizer = fastadam.torch.AdamW([torch.nn.Parameter(draw(1, 500))], lr=0.1)
    for i in range(20):
        value, grad = draw(i, 500), draw(100 + i, 500)
        param = torch.nn.Parameter(value.clone())
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = [param]
        param.grad = grad
        optimizer.step()
        assert_equal([param.detach()], reference([value], [[grad]], lr=0.1))
        assert optimizer.state[param]["step"] == 1


def test_tensors_on_a_memory_map(tmp_path):
    """Parameters, gradients and state may lie in files."""

    def mapped(name, value):
        tensor = torch.from_file(str(tmp_path / name), True, value.numel())
        tensor.copy_(value)
        return tensor

    values, grads = [draw(1, 3000)], [[draw(10 + i, 3000)] for i in range(4)]
    param = mapped("param", values[0])
    param.grad = mapped("grad", grads[0][0])
    optimizer = fastadam.torch.AdamW([param], lr=0.1)
    optimizer.step()
    entry = optimizer.state[param]
    for name in ("exp_avg", "exp_avg_sq"):
        entry[name] = mapped(name, entry[name])
    for (grad,) in grads[1:]:
        param.grad.copy_(grad)
        optimizer.step()
    expected = reference(values, grads, lr=0.1)
    assert_equal([param], expected)
    in_file = torch.frombuffer(bytearray((tmp_path / "param").read_bytes()), dtype=torch.float32)
    assert_equal([in_file], expected)


def test_many_optimizers_of_one_tensor():
    """After the first steps, more of them take no memory."""

    def held_after(steps):
        for _ in range(steps):
            for optimizer in optimizers:
                optimizer.step()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    params = [torch.nn.Parameter(draw(i, 100)) for i in range(100)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizers = [fastadam.torch.AdamW([param]) for param in params]
    tracemalloc.start()
    try:
        before = held_after(5)
        # One number kept by each step would be 140,000 bytes.
        assert held_after(50) - before < 20_000
    finally:
        tracemalloc.stop()
