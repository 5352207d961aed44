"""fastadam.torch in several processes: DTensors, FSDP2, checkpoints, DDP and ZeRO."""

import copy
import warnings

import pytest
from members import FIRST
from processes import together

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():  # as in torch's wheels for macOS before 2.9
    pytest.skip("this torch cannot be distributed", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: E402
from torch.distributed.tensor import (  # noqa: E402
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

with warnings.catch_warnings():  # it uses what torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer, _apply_optimizer_in_backward

import fastadam.torch  # noqa: E402

CLOSE = {torch.float32: 2e-5, torch.float64: 1e-11}


@pytest.fixture(scope="module", autouse=True)
def backend():
    """The processes take the best one."""


def model(dtype=torch.float32):
    """Rows that two processes cannot halve, and one that only the first gets."""
    torch.manual_seed(0)
    layers = [nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 5), nn.Tanh(), nn.Linear(5, 1)]
    return nn.Sequential(*layers).to(dtype)


def shard(net, **options):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(net, mesh=mesh, **options)


def train(net, optimizer, first, last):
    """Steps with that process's part of batches that are the same in each run."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for i in range(first, last):
        generator = torch.Generator().manual_seed(i)
        batch = torch.randn(8, 7, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        net(batch[rank::world].to(next(net.parameters()).dtype)).square().mean().backward()
        optimizer.step()


def whole(tensor):
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone()


def weights(net):
    return [whole(param) for param in net.parameters()]


def distance(net, other):
    pairs = zip(weights(net), weights(other), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


# DTensors


def spread_steps(folder):
    """Whether steps of DTensors give the bytes of those of whole tensors."""
    line, grid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    ways = {
        "rows": (line, [Shard(0)]),
        "columns": (line, [Shard(1)]),
        "replicas": (line, [Replicate()]),
        "grid": (grid, [Replicate(), Shard(0)]),
        "tensor parallel": (grid, [Shard(0), Shard(1)]),
    }
    found = {}
    for name, (mesh, placements) in ways.items():
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
            torch.manual_seed(1)
            values = [torch.randn(7, 6, dtype=dtype), torch.randn(1, 3, dtype=dtype)]
            plain = [nn.Parameter(value.clone()) for value in values]
            spread = [nn.Parameter(distribute_tensor(v, mesh, placements)) for v in values]
            optimizers = [fastadam.torch.AdamW(params, amsgrad=True) for params in (plain, spread)]
            for _ in range(4):
                for p, d in zip(plain, spread, strict=True):
                    p.grad = torch.randn_like(p)
                    d.grad = distribute_tensor(p.grad, mesh, placements)
                for optimizer in optimizers:
                    optimizer.step()
            in_one_call = optimizers[1]._kept.tensors is not None
            assert in_one_call == (fastadam.show_config(mode="dicts")["backend"] == "c")
            state = optimizers[1].state[spread[0]]
            assert all(isinstance(state[key], DTensor) for key in state if key != "step")
            found[name, str(dtype)] = all(
                torch.equal(whole(d), p.detach())
                and torch.equal(
                    whole(optimizers[1].state[d]["exp_avg_sq"]),
                    optimizers[0].state[p]["exp_avg_sq"],
                )
                for p, d in zip(plain, spread, strict=True)
            )
    return found


def spread_members(folder):
    """The members whose steps of DTensors do not give the bytes of those of whole tensors."""
    mesh, found = init_device_mesh("cpu", (2,)), []
    for name in fastadam.torch.__all__:
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(1)
            value = torch.randn(7, 6, dtype=dtype)
            plain = nn.Parameter(value.clone())
            spread = nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]))
            cls = getattr(fastadam.torch, name)
            optimizers = [cls([p], lr=0.1, **FIRST[name]) for p in (plain, spread)]
            for i in range(4):
                plain.grad = torch.randn_like(plain)
                spread.grad = distribute_tensor(plain.grad, mesh, [Shard(0)])
                for optimizer in optimizers:
                    optimizer.step()
                    if i == 2 and hasattr(optimizer, "eval"):
                        optimizer.eval()
                if not torch.equal(whole(spread), plain.detach()):
                    found.append((name, dtype, i))
                for optimizer in optimizers:
                    if i == 2 and hasattr(optimizer, "train"):
                        optimizer.train()
            in_one_call = optimizers[1]._kept.tensors is not None
            assert in_one_call == (fastadam.show_config(mode="dicts")["backend"] == "c")
    return found


def parts_of_moments(folder):
    """Whether moments in bfloat16 are rounded as those of whole tensors, where rows are spread."""
    mesh, found = init_device_mesh("cpu", (2,)), []
    cases = [(shape, torch.bfloat16) for shape in ((7, 6), (33, 70), (1, 3))]
    for shape, dtype in (*cases, ((5, 3), torch.complex64)):
        torch.manual_seed(1)
        value = torch.randn(shape, dtype=dtype)
        plain = nn.Parameter(value.clone())
        spread = nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]))
        params = (plain, spread)
        optimizers = [fastadam.torch.AdamW([p], state_dtype="bfloat16") for p in params]
        for _ in range(4):
            plain.grad = torch.randn_like(plain)
            spread.grad = distribute_tensor(plain.grad, mesh, [Shard(0)])
            for optimizer in optimizers:
                optimizer.step()
        states = [o.state[p] for o, p in zip(optimizers, params, strict=True)]
        found += [torch.equal(whole(states[1][key]), whole(states[0][key])) for key in states[0]]
        exact_ones = fastadam.torch.AdamW([plain]), fastadam.torch.AdamW([spread])
        for exact, optimizer, param in zip(exact_ones, optimizers, params, strict=True):
            exact.step()
            optimizer.load_state_dict(exact.state_dict())  # where they are rounded, too
            states.append(optimizer.state[param])
        found += [torch.equal(whole(states[3][key]), whole(states[2][key])) for key in states[2]]
    return found


def odd_gradients(folder):
    """Gradients that are spread otherwise; what is said of those that cannot be spread so."""
    mesh, grid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    value = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    plain = nn.Parameter(value.clone())
    param = nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]))
    optimizers = [fastadam.torch.Adam([p]) for p in (plain, param)]
    said = []
    for step in range(3):  # before the first step, and where tensors are already known
        for placement in (Shard(0), Shard(1), Replicate(), Partial()):
            plain.grad = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
            if placement == Partial():
                param.grad = DTensor.from_local(plain.grad / 2, mesh, [placement])
            else:
                param.grad = distribute_tensor(plain.grad, mesh, [placement])
            if step == 1 and dist.get_rank() == 0:  # here the way that looks at all tensors anew
                optimizers[1]._kept.tensors = None
            for optimizer in optimizers:
                optimizer.step()
            assert torch.equal(whole(param), plain.detach())
            assert torch.equal(whole(param.grad), plain.grad)
        before = whole(param)
        param.grad = distribute_tensor(plain.grad, grid, [Replicate(), Shard(0)])
        try:
            optimizers[1].step()
        except RuntimeError as error:
            said.append(str(error))
        assert torch.equal(before, whole(param))
    param = nn.Parameter(DTensor.from_local(torch.ones(5, 4), mesh, [Partial()]))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match=r"\['params'\]\[0\] is a DTensor .*sum\)"):
        fastadam.torch.Adam([param]).step()
    return said


def tensor_parallel(folder):
    """With sequence parallelism gradients of norms are sums that are still to be made."""
    mesh, nets = init_device_mesh("cpu", (2,)), []
    plan = {
        "0": SequenceParallel(),
        "1": ColwiseParallel(input_layouts=Shard(1)),
        "3": RowwiseParallel(output_layouts=Shard(1)),
    }
    for cls in (fastadam.torch.AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
        parallelize_module(net, mesh, plan)
        optimizer = cls(net.parameters(), lr=1e-2)
        for i in range(20):
            batch = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(i))
            optimizer.zero_grad()
            net(batch.chunk(2, 1)[dist.get_rank()]).square().sum().backward()
            optimizer.step()
        nets.append(net)
    return distance(*nets)


def older_graphs(folder):
    """Whether autograd refuses graphs that are older than a step, of DTensors and their parts."""
    mesh, found = init_device_mesh("cpu", (2,)), []
    params = [nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])) for _ in range(2)]
    optimizer, in_c = fastadam.torch.AdamW(params), fastadam.torch._optimizer.Tensors
    for step in range(4):
        has_grad = [True, step != 3]
        for param, has in zip(params, has_grad, strict=True):
            param.grad = torch.ones_like(param) if has else None
        # Tensors that C looks at, or arrays.
        fastadam.torch._optimizer.Tensors = None if step == 1 else in_c
        if step == 1:
            optimizer._kept.tensors = None
        squares = [p.square().sum() for p in params], [p.to_local().square().sum() for p in params]
        optimizer.step()
        for made in squares:
            for square, has in zip(made, has_grad, strict=True):
                try:
                    square.backward()
                    is_refused = False
                except RuntimeError:
                    is_refused = True
                found.append(is_refused == has)
    return found


# FSDP2


def fsdp(folder):
    found = {}
    for dtype in (torch.float32, torch.float64):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for options in ({}, {"mp_policy": policy}):
            nets = [shard(model(dtype), **options) for _ in range(2)]
            classes = fastadam.torch.AdamW, torch.optim.AdamW
            for net, cls in zip(nets, classes, strict=True):
                train(net, cls(net.parameters(), lr=1e-2), 0, 20)
            found[dtype, bool(options)] = distance(*nets)
    return found


def shards_after(folder):
    """Parameters that become DTensors after the optimizer was made."""
    net, reference = model(), shard(model())
    optimizer = fastadam.torch.AdamW(net.parameters(), lr=1e-2)
    shard(net)
    optimizer.param_groups[0]["params"] = list(net.parameters())
    train(net, optimizer, 0, 10)
    train(reference, torch.optim.AdamW(reference.parameters(), lr=1e-2), 0, 10)
    return distance(net, reference)


# Checkpoints

KINDS = {
    "float32": (torch.float32, None),
    "bfloat16 state": (torch.float32, "bfloat16"),
    "bfloat16": (torch.bfloat16, "bfloat16"),
}


def made(kind, is_sharded=True):
    dtype, state_dtype = KINDS[kind]
    net = shard(model(dtype)) if is_sharded else model(dtype)
    return net, fastadam.torch.AdamW(net.parameters(), lr=1e-2, state_dtype=state_dtype)


def options_for(is_flat):
    return StateDictOptions(flatten_optimizer_state_dict=is_flat)


def save_checkpoints(folder):
    for kind in KINDS:
        for is_flat in (False, True):
            net, optimizer = made(kind)
            train(net, optimizer, 0, 10)
            states = get_state_dict(net, optimizer, options=options_for(is_flat))
            path = folder / f"saved by {dist.get_world_size()}" / f"{kind} {is_flat}"
            dcp.save(dict(zip(("net", "optimizer"), states, strict=True)), checkpoint_id=path)
            train(net, optimizer, 10, 20)
            final = weights(net)  # for which all are needed
            if dist.get_rank() == 0:
                torch.save(final, path / "final")


def load_checkpoints(folder, saved_by, is_sharded=True):
    """How far off training that goes on from a checkpoint is, after as many steps."""
    found = {}
    for kind in KINDS:
        for is_flat in (False, True):
            path = folder / f"saved by {saved_by}" / f"{kind} {is_flat}"
            net, optimizer = made(kind, is_sharded)
            before = weights(net)
            options = options_for(is_flat)
            states = get_state_dict(net, optimizer, options=options)  # a step with lr = 0
            assert all(map(torch.equal, before, weights(net)))
            content = dict(zip(("net", "optimizer"), states, strict=True))
            dcp.load(content, checkpoint_id=path)
            set_state_dict(
                net,
                optimizer,
                model_state_dict=content["net"],
                optim_state_dict=content["optimizer"],
                options=options,
            )
            train(net, optimizer, 10, 20)
            assert next(iter(optimizer.state.values()))["step"] == 20
            pairs = zip(weights(net), torch.load(path / "final"), strict=True)
            found[kind, is_flat] = max((a - b).abs().max().item() for a, b in pairs)
    return found


def full_states(folder):
    """How far off training is that goes on from full state dicts, which all parts are sent for."""
    found = {}
    for kind in KINDS:
        net, optimizer = made(kind)
        train(net, optimizer, 0, 10)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        # Step counts are the optimizer's own tensors.
        states = copy.deepcopy(get_state_dict(net, optimizer, options=options))
        train(net, optimizer, 10, 20)
        other, its = made(kind)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        assert bool(states[1]) == (dist.get_rank() == 0)
        set_model_state_dict(other, states[0], options=options)
        set_optimizer_state_dict(other, its, states[1], options=options)
        train(other, its, 10, 20)
        found[kind] = distance(net, other)
    return found


def eight_bits(folder):
    """State in 8 bits is for steps; a state dict has it decoded."""
    mesh = init_device_mesh("cpu", (2,))
    param = nn.Parameter(distribute_tensor(torch.randn(2 * 80, 64), mesh, [Shard(0)]))
    layer = nn.Module()
    layer.weight = param
    optimizer = fastadam.torch.AdamW([param], state_dtype="int8")
    param.grad = torch.randn_like(param)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].dtype == torch.uint8
    said = []
    small = nn.Parameter(distribute_tensor(torch.randn(3, 2100), mesh, [Shard(0)]))
    other = fastadam.torch.AdamW([small], state_dtype="int8")
    small.grad = torch.randn_like(small)
    other.step()
    in_8_bits = other.state[small]["exp_avg"].dtype == torch.uint8
    assert in_8_bits == (dist.get_rank() == 0)  # and yet none of them may go on alone
    for ask in (
        other.state_dict,
        optimizer.state_dict,
        lambda: get_optimizer_state_dict(layer, optimizer),
    ):
        try:
            ask()
        except ValueError as error:
            said.append(str(error))
    decoded = optimizer.state_dict(decoded=True)["state"][0]["exp_avg"]
    assert isinstance(decoded, DTensor)
    assert decoded.dtype == torch.float32
    other = fastadam.torch.AdamW([param], state_dtype="int8")
    other.load_state_dict(optimizer.state_dict(decoded=True))
    assert other.state[param]["exp_avg"].dtype == torch.uint8
    return said


# DistributedDataParallel, ZeroRedundancyOptimizer


def data_parallel(folder):
    found = {}
    for dtype in (torch.float32, torch.float64):
        nets = [DistributedDataParallel(model(dtype)) for _ in range(2)]
        classes = fastadam.torch.AdamW, torch.optim.AdamW
        for net, cls in zip(nets, classes, strict=True):
            train(net, cls(net.parameters(), lr=1e-2), 0, 20)
        found[dtype] = distance(*nets)
    return found


def zero(folder):
    found = []
    for as_view in (False, True):
        nets, optimizers = [], []
        for cls in (fastadam.torch.AdamW, torch.optim.AdamW):
            net = DistributedDataParallel(model())
            optimizer = ZeroRedundancyOptimizer(
                net.parameters(), cls, parameters_as_bucket_view=as_view, lr=1e-2
            )
            train(net, optimizer, 0, 10)
            optimizer.consolidate_state_dict(to=0)
            if dist.get_rank() == 0:
                saved = copy.deepcopy(optimizer.state_dict())
                whole_one = cls(model().parameters(), lr=1e-2)
                whole_one.load_state_dict(saved)
                assert all(entry["step"] == 10 for entry in whole_one.state.values())
            train(net, optimizer, 10, 20)
            nets.append(net)
            optimizers.append(optimizer)
        found.append(distance(*nets))
    return found


# All of that together, since a process takes seconds to begin


def two_processes(folder):
    functions = (
        *(
            spread_steps,
            spread_members,
            parts_of_moments,
            odd_gradients,
            tensor_parallel,
            older_graphs,
            fsdp,
            shards_after,
            full_states,
            eight_bits,
            data_parallel,
            zero,
        ),
        save_checkpoints,
    )
    found = {function.__name__: function(folder) for function in functions}
    return {**found, "load": load_checkpoints(folder, saved_by=2)}


def one_process(folder):
    save_checkpoints(folder)
    return {
        "load": load_checkpoints(folder, saved_by=2),
        "load whole": load_checkpoints(folder, saved_by=2, is_sharded=False),
    }


def two_later(folder):
    return {"load": load_checkpoints(folder, saved_by=1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def found(folder):
    """What each of two processes found."""
    return together(two_processes, 2, folder)


def test_steps_of_dtensors_are_those_of_whole_tensors(found):
    for each in found:
        assert len(each["spread_steps"]) == 20
        assert all(each["spread_steps"].values()), each["spread_steps"]


def test_each_member_steps_dtensors(found):
    assert [each["spread_members"] for each in found] == [[], []]


def test_moments_of_parts_are_parts_of_those_of_the_whole(found):
    for each in found:
        assert len(each["parts_of_moments"]) == 30
        assert all(each["parts_of_moments"])


def test_gradients_that_are_spread_otherwise(found):
    for each in found:
        assert len(each["odd_gradients"]) == 3
        for message in each["odd_gradients"]:
            assert "the gradient of param_groups[0]['params'][0] is a DTensor on" in message
            assert "expected a DTensor on" in message


def test_tensor_parallel(found):
    assert all(each["tensor_parallel"] < CLOSE[torch.float32] for each in found)


def test_older_graphs(found):
    for each in found:
        assert len(each["older_graphs"]) == 16
        assert all(each["older_graphs"])


def test_fsdp(found):
    """The last weight is one row, so the second process has none of it."""
    for each in found:
        off = each["fsdp"]
        assert off[torch.float32, False] < CLOSE[torch.float32]
        assert off[torch.float64, False] < CLOSE[torch.float64]
        # Products are rounded to bfloat16, and a bit that differs there is a thousandth.
        assert off[torch.float32, True] < 2e-3
        assert off[torch.float64, True] < 2e-3


def test_shards_after_the_optimizer_was_made(found):
    assert all(each["shards_after"] < CLOSE[torch.float32] for each in found)


def test_full_state_dicts(found):
    for each in found:
        assert each["full_states"] == dict.fromkeys(KINDS, 0.0)


def test_eight_bits_are_not_in_state_dicts_of_dtensors(found):
    for each in found:
        assert len(each["eight_bits"]) == 3
        for message in each["eight_bits"]:
            assert "the state of param_groups[0]['params'][0] is in 8 bits" in message
            assert "state_dict(decoded=True)" in message


def test_data_parallel(found):
    for each in found:
        assert all(each["data_parallel"][dtype] < CLOSE[dtype] for dtype in CLOSE)


def test_zero(found):
    assert all(max(each["zero"]) < CLOSE[torch.float32] for each in found)


def test_checkpoints(found, folder):
    (alone,) = together(one_process, 1, folder)
    later = together(two_later, 2, folder)
    for each in found:
        assert set(each["load"].values()) == {0.0}
    for off in (alone["load"], alone["load whole"], *(each["load"] for each in later)):
        # Means of four or eight rows differ in the last bits; and so do roundings at random,
        # since a process has another part.
        for (kind, _), distance_of in off.items():
            assert distance_of <= {"float32": 1e-6, "bfloat16 state": 2e-3, "bfloat16": 1e-2}[kind]


def test_in_backward():
    nets = [model(), model()]
    for net, cls in zip(nets, (fastadam.torch.AdamW, torch.optim.AdamW), strict=True):
        _apply_optimizer_in_backward(cls, net.parameters(), {"lr": 1e-2})
        for i in range(20):
            net(
                torch.randn(8, 7, generator=torch.Generator().manual_seed(i))
            ).square().mean().backward()
    assert distance(*nets) < CLOSE[torch.float32]
