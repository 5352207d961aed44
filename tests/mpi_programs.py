"""What test_mpi.py runs under mpiexec: ``python mpi_programs.py NAME ARGUMENTS``."""

import copy
import doctest
import errno
import itertools
import os
import pathlib
import re
import resource
import sys
import tempfile
from functools import partial

import numpy as np
from members import BY_NAME
from mpi4py import MPI

import fastadam
from fastadam import _files, schedules
from fastadam._numpy import NORM_BLOCK
from fastadam.mpi import DistributedOptimizer, ZeroRedundancyOptimizer, _base, _distributed, _zero
from fastadam.mpi._cuts import cut

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size


def params_of(dtype="float32"):
    """Groups of arrays, most of which are cut; the same on all ranks."""
    rng = np.random.default_rng(0)
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16 as dtype

    def draw(*shape, dtype=dtype):
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)

    return [
        {
            "params": {"W": draw(300, 70), "b": draw(70), "F": np.asfortranarray(draw(100, 90))},
            "weight_decay": 0.125,
        },
        {
            "params": [draw(90, 200)[:, ::2], draw(5, 1), draw(0, 3), draw()],
            "lr": schedules.cosine_decay(0.1, 40),
        },
    ]


def arrays_of(groups):
    return [*groups[0]["params"].values(), *groups[1]["params"]]


def leaves(group):
    return group.values() if isinstance(group, dict) else group


def grads_of(groups, step, of_rank):
    rng = np.random.default_rng(1000 * step + of_rank)
    found = [rng.standard_normal(p.shape).astype(p.dtype) for p in arrays_of(groups)]
    if step % 5 == 2:
        found[1] = None
    if step % 5 == 3 and of_rank != size - 1:  # one rank alone has it
        found[2] = None
    if step == 7 and of_rank == size - 1:
        found[3][2, 2] = np.nan
    return [dict(zip(groups[0]["params"], found[:3], strict=True)), found[3:]]


def mean(all_of_it):
    """The mean of all ranks' gradients, added up in their order."""
    flat = [[*first.values(), *second] for first, second in all_of_it]
    means = []
    for grads in zip(*flat, strict=True):
        given = [g for g in grads if g is not None]
        if not given:
            means.append(None)
            continue
        total = np.zeros_like(given[0], np.result_type(given[0].dtype, np.float32))
        for g in given:
            total = total + g
        by = total.real.dtype.type(size)
        if total.dtype.kind == "c":  # NumPy's division of complex numbers rounds otherwise
            means.append(np.asarray(total.real / by + 1j * (total.imag / by), total.dtype))
        else:
            means.append(np.asarray(total / by, total.dtype))
    return [dict(zip(all_of_it[0][0], means[:3], strict=True)), means[3:]]


def same(left, right):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(left, right, strict=True)
    )


def check_refused(arrays, call, kind, *words):
    """A call raises an error with these words, and leaves the arrays as they are; its message."""
    before = [p.copy() for p in arrays]
    try:
        call()
    except kind as error:
        message = str(error)
    else:
        message = ""
    assert message
    assert [word for word in words if word not in message] == [], message
    assert same(before, arrays)
    return message


def check_file(path, alone):
    """A file is the one that a single process writes, and nothing else is left."""
    if rank == 0:
        folder = pathlib.Path(path).parent
        assert [p.name for p in folder.iterdir()] == [pathlib.Path(path).name]
        other = str(folder / "alone") + pathlib.Path(path).suffix
        alone.save(other, params=True, rng=np.random.default_rng(7))
        if path.endswith(".safetensors"):  # whose library puts metadata in any order
            found, expected = _files.read(path), _files.read(other)
            assert found[0] == expected[0]
            assert list(found[1]) == list(expected[1])
            assert same(found[1].values(), expected[1].values())
        else:
            assert pathlib.Path(path).read_bytes() == pathlib.Path(other).read_bytes()


def seen(state_dict):
    """All of a state dict but the functions in it."""
    groups = [{**group, "lr": None} for group in state_dict["param_groups"]]
    entries = {
        key: {name: np.asarray(value).tobytes() for name, value in entry.items()}
        for key, entry in state_dict["state"].items()
    }
    return entries, groups


def pair(name, dtype="float32", **options):
    cls, ours, theirs = getattr(fastadam, name), params_of(dtype), params_of(dtype)
    spread = ZeroRedundancyOptimizer(
        ours, cls, deterministic=True, bucket_bytes=1 << 15, lr=0.01, **options
    )
    return spread, cls(theirs, lr=0.01, **options), ours, theirs


def train(spread, alone, ours, theirs, steps, first=0):
    for step in range(first, first + steps):
        grads = [grads_of(ours, step, r) for r in range(size)]
        spread.step(grads[rank], loss_scale=4.0)
        alone.step(mean(grads), loss_scale=4.0)
        assert same(arrays_of(ours), arrays_of(theirs)), step
        if spread.grad_norm is not None:
            assert np.array_equal(spread.grad_norm, alone.grad_norm, equal_nan=True)
    assert (spread.finished_steps, spread.skipped_steps) == (
        alone.finished_steps,
        alone.skipped_steps,
    )


def bits(name, dtype, state_dtype):
    """Each step has the bits of one process that gets the averaged gradients."""
    options = {"max_grad_norm": 30.0, "skip_nonfinite": True, "seed": 3}
    options["state_dtype"] = None if state_dtype == "None" else state_dtype
    if not BY_NAME[name].averages_itself:
        options["ema_decay"] = 0.75
    both = pair(name, dtype, **options)
    train(*both, 12)
    spread, alone, ours, _ = both
    assert alone.skipped_steps == 1
    spread.check_synced()
    whole = spread.state_dict()
    assert seen(whole) == seen(alone.state_dict())
    if "ema_decay" in options or BY_NAME[name].averages_itself:
        with spread.use_averaged_params():
            averages = [p.copy() for p in arrays_of(ours)]
        with alone.use_averaged_params():
            assert same(averages, arrays_of(both[3]))
    own = comm.allgather(spread.state_bytes)
    assert max(own) <= alone.state_bytes / size + 13 * size * (1 << 15)
    assert sum(own) == alone.state_bytes


def steps(count, clipping):
    """Many steps, one of which is skipped; without clipping, gradients are sent meanwhile."""
    clip = {"max_grad_norm": 30.0, "skip_nonfinite": True} if clipping == "clipped" else {}
    both = pair("AdamW", weight_decay=0.25, **clip)
    train(*both, int(count))
    assert both[0].skipped_steps == bool(clip)


def dtypes():
    """Arrays of several dtypes, the largest of which is no multiple of the others' size."""
    both = [
        [np.ones(5001, np.float32), np.ones(3), np.ones(9, np.float16), np.ones((), np.complex64)]
        for _ in range(2)
    ]
    spread = ZeroRedundancyOptimizer(both[0], fastadam.Adam, deterministic=True)
    alone = fastadam.Adam(both[1])
    for step in range(3):
        grads = [np.full_like(p, step - 0.5) for p in both[0]]
        spread.step(grads)
        alone.step(grads)
        assert same(*both)


def memory():
    """A rank's memory grows by its share of the state and one bucket."""
    bucket, n = 1 << 23, 1 << 24
    w, grad = np.ones(n, np.float32), np.ones(n, np.float32)
    first = ZeroRedundancyOptimizer(np.ones(bucket), fastadam.Adam, bucket_bytes=bucket)
    first.step(np.ones(bucket))  # what MPI takes when it is first used
    before = resident()
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam, bucket_bytes=bucket)
    for _ in range(2):
        opt.step(grad)
    grown = resident() - before
    assert opt.state_bytes == 8 * n // size
    assert grown < 8 * n // size + bucket + (8 << 20)  # and what the NumPy backend works with


def resident():
    """How many bytes this process has in memory."""
    fields = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", fields)[1])


def large(path):
    """More numbers than 32 bits can count, of which the first and the last ones are looked at."""
    from ml_dtypes import bfloat16

    n, m = (1 << 31) + 3 * NORM_BLOCK + 5, 9000
    w, grad = np.zeros(n, bfloat16), np.zeros(n, bfloat16)
    ends = [slice(0, m), slice(n - m, n)]
    rng = np.random.default_rng(0)
    opt = ZeroRedundancyOptimizer(w, fastadam.Lion, lr=0.125, state_dtype="int8")
    few = [np.zeros(m, bfloat16) for _ in ends]
    alone = fastadam.Lion(few, lr=0.125)
    for step in range(2):
        given = [rng.standard_normal(m).astype(bfloat16) for _ in ends]
        for end, values in zip(ends, given, strict=True):
            grad[end] = values
        opt.step(grad)
        alone.step(given)
        for end, own in zip(ends, few, strict=True):
            unlike = np.count_nonzero(w[end] != own)
            assert unlike <= step * m / 50  # 8 bits may give the sum of both steps another sign
    assert not w[m : n - m : 12345].any()
    opt.save(path, params=True)
    file = _files.mapped(path)
    file.check(rank, size)
    assert np.array_equal(file.arrays["0"][-m:], w[-m:].view(np.uint16))
    last = w[-m:].copy()
    del opt
    w[...] = 0
    again = ZeroRedundancyOptimizer(w, fastadam.Lion, state_dtype="int8")
    again.load(path)
    assert np.array_equal(w[-m:], last)
    again.step(grad)
    alone.step(given)
    assert np.count_nonzero(w[-m:] != few[1]) <= m / 50


def checkpoint(path, mode, name, dtype, state_dtype):
    """Written on some ranks, and read on others, and without MPI."""
    options = {"max_grad_norm": 30.0, "skip_nonfinite": True, "seed": 5}
    options["state_dtype"] = None if state_dtype == "None" else state_dtype
    if not BY_NAME[name].averages_itself:
        options["ema_decay"] = 0.75
    both = pair(name, dtype, **options)
    spread, alone, ours, theirs = both
    if mode == "save":
        train(*both, 5)
        spread.save(path, params=True, rng=np.random.default_rng(7))
        check_file(path, alone)
    else:
        rngs = [np.random.default_rng(1) for _ in range(2)]
        spread.load(path, rng=rngs[0])
        alone.load(path, rng=rngs[1])
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
        assert same(arrays_of(ours), arrays_of(theirs))
        train(*both, 5, first=20)
        state = spread.state_dict(to=size - 1)
        assert (state is None) == (rank != size - 1)
        whole = alone.state_dict()
        spread.load_state_dict(whole)
        assert seen(spread.state_dict()) == seen(whole)


def errors():
    """One rank's error is that of all, and nothing is changed on any."""

    def refused(call, kind, *words):
        counts = spread.finished_steps, spread.skipped_steps
        check_refused(arrays_of(ours), call, kind, *words)
        assert counts == (spread.finished_steps, spread.skipped_steps)

    both = pair("AdamW", max_grad_norm=30.0)
    spread, alone, ours, theirs = both
    train(*both, 2)
    last = size - 1

    def with_bad(change):
        grads = grads_of(ours, 2, rank)
        if rank == last:
            change(grads)
        return lambda: spread.step(grads)

    def shape(grads):
        grads[0]["W"] = np.ones((3, 3), np.float32)

    def dtype(grads):
        grads[1][0] = grads[1][0].astype(complex)

    def lost(grads):
        del grads[0]["F"]

    def rows(grads):
        grads[0]["b"] = fastadam.RowGrad([1], np.ones(1, np.float32))

    refused(with_bad(shape), ValueError, f"rank {last}: ", "grads[0]['W']", "(3, 3)")
    refused(with_bad(dtype), (TypeError, ValueError), f"rank {last}: ", "grads[1][0]")
    refused(with_bad(lost), (KeyError, ValueError), f"rank {last}: ", "'F'")
    refused(with_bad(rows), (TypeError, ValueError), f"rank {last}: ", "grads[0]['b']")

    group = spread.param_groups[0]
    lr = group["lr"]
    for bad, words in ((-1.0, "Invalid learning rate"), (lambda k: 1 / 0, "ZeroDivisionError")):
        group["lr"] = bad if rank == last else lr
        refused(
            lambda: spread.step(grads_of(ours, 2, rank)), (ValueError, RuntimeError),
            f"rank {last}: ", words,
        )  # fmt: skip
        group["lr"] = lr
    if size > 1:
        group["lr"] = 0.5 if rank == last else lr
        refused(
            lambda: spread.step(grads_of(ours, 2, rank)), RuntimeError, "do not do the same", "0.5"
        )
        group["lr"] = lr
        refused(
            lambda: spread.check_synced() if rank == last else spread.step(grads_of(ours, 2, rank)),
            RuntimeError, "rank 0 calls step", f"rank {last} calls check_synced",
        )  # fmt: skip
        refused(
            lambda: spread.step(grads_of(ours, 2, rank), loss_scale=2.0 if rank == last else 1.0),
            RuntimeError, "do not do the same", "2.0",
        )  # fmt: skip
    refused(lambda: spread.step(), ValueError, "accumulate was not called")
    if rank == last:
        spread.accumulate(grads_of(ours, 2, rank))
    refused(lambda: spread.step(grads_of(ours, 2, rank)), ValueError, f"rank {last}: step got")
    if size > 1:
        refused(lambda: spread.step(), ValueError, "rank 0: step got no gradients")
    if rank != last:
        spread.accumulate(grads_of(ours, 2, rank))
    spread.step()
    alone.step(mean([grads_of(ours, 2, r) for r in range(size)]))
    assert same(arrays_of(ours), arrays_of(theirs))
    refused(lambda: spread.load("/nowhere/x.ckpt"), FileNotFoundError, "rank 0: ")
    refused(lambda: spread.save("/nowhere/x.ckpt"), FileNotFoundError, "rank 0: ")
    state = spread.state_dict()
    if rank == last:
        del state["state"]["W"]["exp_avg"]
    refused(lambda: spread.load_state_dict(state), KeyError, f"rank {last}: ", "exp_avg")

    def make(**options):
        return lambda: ZeroRedundancyOptimizer(np.ones(3), fastadam.Adam, **options)

    refused(make(lr=-1.0 if rank == last else 1.0), ValueError, f"rank {last}: Invalid learning")
    refused(make(betas=3), ValueError, "rank 0: betas must be two numbers")
    if size > 1:
        refused(make(lr=1.0, eps=1e-3 if rank == last else 1e-8), RuntimeError, "the same", "0.001")
        wrong = np.ones(3 if rank else 4)
        refused(lambda: ZeroRedundancyOptimizer(wrong, fastadam.Adam), RuntimeError, "(4,)", "(3,)")
        ours[0]["params"]["b"][3] += rank
        refused(spread.check_synced, RuntimeError, "params[0]['b']", "rank")


def misuse(path):
    """What one rank does otherwise than the others is an error of all, whatever they call."""
    last, is_last = size - 1, rank == size - 1
    params = {"w": np.ones(9, np.float32), "b": np.ones(3, np.float32)}

    def refused(call, kind, *words):
        return check_refused([params["b"]], call, kind, *words)

    def make(cls=ZeroRedundancyOptimizer, of=fastadam.Adam, **options):
        return cls(params, of, **{"ema_decay": 0.5, **options})

    def use(opt):
        with opt.use_averaged_params():
            pass

    opt, parts = make(), make(DistributedOptimizer)
    opt.save(path, params=True)
    state = opt.state_dict()
    grads = {key: np.ones_like(p) for key, p in params.items()}
    calls = {
        "step": lambda opt: opt.step(grads),
        "save": lambda opt: opt.save(path),
        "load": lambda opt: opt.load(path),
        "state_dict": lambda opt: opt.state_dict(),
        "load_state_dict": lambda opt: opt.load_state_dict(state),
        "averaged_params": lambda opt: opt.averaged_params(),
        "use_averaged_params": use,
        "check_synced": lambda opt: opt.check_synced(),
    }
    for name, call in calls.items():
        other = "averaged_params" if name != "averaged_params" else "check_synced"
        refused(
            partial(call if is_last else calls[other], opt), RuntimeError,
            f"rank 0 calls {other}, and rank {last} calls {name}",
        )  # fmt: skip

    block = opt.use_averaged_params()
    block.__enter__()
    if not is_last:
        block.__exit__(None, None, None)
    for name in list(calls)[:-1]:
        refused(partial(calls[name], opt), RuntimeError, f"rank {last}: within use_averaged_params")
    if is_last:
        block.__exit__(None, None, None)
        with parts.use_averaged_params():
            refused(partial(calls["step"], parts), RuntimeError, f"rank {last}: within use_")
    else:
        refused(partial(calls["step"], parts), RuntimeError, f"rank {last}: within use_")

    w, less = params["w"], {**grads, "w": None if is_last else grads["w"]}
    if is_last:
        params["w"] = w.copy()
    refused(partial(use, opt), ValueError, f"rank {last}: params['w'] was replaced")
    refused(lambda: opt.step(less), ValueError, f"rank {last}: params['w'] was replaced")
    params["w"] = w
    w.flags.writeable = not is_last
    refused(partial(use, opt), ValueError, f"rank {last}: params['w'] has become read-only")
    refused(lambda: opt.step(less), ValueError, f"rank {last}: params['w'] has become read-only")
    w.flags.writeable = True
    if is_last:
        opt.param_groups.append(opt.param_groups[0])
    refused(opt.state_dict, ValueError, f"rank {last}: param_groups has 2 entries")
    del opt.param_groups[1:]
    refused(lambda: opt.state_dict(to=size), ValueError, f"to is {size}, but")
    refused(lambda: opt.load(path, params=is_last), RuntimeError, "the ranks do not do the same")

    refused(lambda: make(ema_decay=0.25 if is_last else 0.5), RuntimeError, "0.25")
    refused(lambda: make(of=5 if is_last else fastadam.Adam), TypeError, f"rank {last}: optimizer_")
    refused(
        lambda: make(of=ZeroRedundancyOptimizer), TypeError, "rank 0: optimizer_class is <class"
    )
    refused(lambda: make(bucket_bytes=1e6), TypeError, "bucket_bytes must be an integer")
    refused(lambda: make(bucket_bytes=0), ValueError, "bucket_bytes: 0; expected at least 1")
    refused(lambda: make(average=1), TypeError, "average must be True or False")
    many = [np.ones(n % 7) for n in range(1000 + is_last)]
    assert len(refused(lambda: ZeroRedundancyOptimizer(many, fastadam.Adam), RuntimeError)) < 600


def saves(path):
    """Save again and again; rank 0 says which rank is which process, and what was saved."""
    w = np.zeros(1 << 20, np.float32)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    pids = comm.gather(os.getpid())
    if rank == 0:
        print(*pids, flush=True)
    for count in itertools.count(1):
        opt.step(np.full_like(w, count))
        w[...] = count
        opt.save(path, params=True)
        if rank == 0:
            print("saved", flush=True)


def refused_files(path):
    """What one rank cannot write or read, no rank does; the old file and the state stay."""
    spread, _, ours, _ = pair("Adam")
    spread.save(path, params=True)
    spread.step(grads_of(ours, 0, rank))
    file, last = pathlib.Path(path), size - 1
    before, state = file.read_bytes(), seen(spread.state_dict())

    def check(call, kind, *words):
        check_refused(arrays_of(ours), call, kind, *words)
        assert seen(spread.state_dict()) == state  # which all ranks call
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]

    def save(name=path, **options):
        return lambda: spread.save(name, **options)

    check(save(params=rank == 0), RuntimeError, "the ranks do not do the same")
    check(save(rng=np.random.default_rng(rank)), RuntimeError, "the ranks do not do the same")
    check(save(rng=[7] if rank == last else []), TypeError, f"rank {last}: rng is")
    check(save("x.npz" if rank == last else path), ValueError, f"rank {last}: x.npz")
    group, b = ours[0]["params"], ours[0]["params"]["b"]
    if rank == last:
        group["b"] = b.copy()
    check(save(params=True), ValueError, f"rank {last}: ", "params[0]['b']")
    group["b"] = b
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for full in (0, last):  # as if the disk of one rank were full
        if rank == full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
        check(save(params=True), OSError, f"rank {full}: [Errno {errno.EFBIG}]", path)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check(lambda: spread.load(path if rank == 0 else path + "x"), FileNotFoundError, "rank 1: ")
    with tempfile.TemporaryDirectory() as folder:
        damaged = pathlib.Path(folder) / "x.ckpt"
        damaged.write_bytes(before[:-40] + bytes([before[-40] ^ 1]) + before[-39:])
        check(lambda: spread.load(damaged), ValueError, f"rank {last}: ", "/x.ckpt: damaged")
        newer = f"{folder}/y.ckpt"
        spread.save(newer)  # where rank 0 says
        mine = path if rank else newer
        check(lambda: spread.load(mine), RuntimeError, "the ranks do not do the same")
    spread.load(path)
    assert spread.finished_steps == 0
    averaged, _, copies, _ = pair("Adam", ema_decay=0.5)
    for param in arrays_of(copies):
        param[...] = 0
    averaged.load(path)
    assert same([p for group in averaged.averaged_params() for p in leaves(group)], arrays_of(ours))


def no_library(path):
    """Without the safetensors library, the error is the one that is documented."""
    spread, _, ours, _ = pair("Adam")
    sys.modules["safetensors.numpy"] = None
    for call in (spread.save, spread.load):
        check_refused(arrays_of(ours), lambda call=call: call(path), ImportError, "pip install")


def other_arrays(path):
    """Files that differ in their arrays alone are noticed, also in the format of safetensors."""
    w = np.ones(9)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    folder = pathlib.Path(path).parent
    for number in range(size):
        opt.save(folder / f"{number}.safetensors", params=True)
        w += 1
    own = folder / f"{rank}.safetensors"
    check_refused([w], lambda: opt.load(own), RuntimeError, "the ranks do not do the same: load")


def flip(path, place):
    """Change a bit of a file."""
    comm.Barrier()
    if rank == 0:
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    comm.Barrier()


def damaged(path):
    """Damage anywhere in a file of many blocks is found by some rank and refused by all."""
    w = np.ones(3 << 20, np.float32)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    opt.step(w)
    opt.save(path, params=True)
    n_bytes = os.path.getsize(path)
    assert n_bytes > 2 * size * _files.BLOCK
    for place in (5, 40, *range(_files.BLOCK // 2, n_bytes, _files.BLOCK), n_bytes - 1):
        flip(path, place)
        check_refused([w], lambda: opt.load(path), ValueError, "x.ckpt: ")
        flip(path, place)
    opt.load(path)
    if rank == 0:
        os.truncate(path, n_bytes - 1)
    comm.Barrier()
    check_refused([w], lambda: opt.load(path), ValueError, "x.ckpt: truncated")


def overwritten(path):
    """What was loaded does not change with the file."""
    w = np.ones(100, np.float32)
    opt = DistributedOptimizer(w, fastadam.Adam, state_dtype="bfloat16")
    opt.step(w)
    opt.save(path)
    opt.load(path)
    before = seen(opt.state_dict())
    comm.Barrier()
    if rank == 0:
        with open(path, "r+b") as file:
            file.write(bytes(os.path.getsize(path)))
    comm.Barrier()
    assert seen(opt.state_dict()) == before


def own_part(rows, width):
    """Where this rank's rows begin and end; blocks of 64 numbers are whole."""
    edges = [8 * (rows // 8 * r // size) for r in range(size)] + [rows]
    return slice(edges[rank], edges[rank + 1])


def parts_and_whole(name, dtype, state_dtype):
    """Optimizers of this rank's rows of an array, and of all of it; a vector is the last rank's."""
    rng = np.random.default_rng(1)
    rows, width = 90, 4096 // 8
    here = own_part(rows, width)
    whole = {"x": rng.standard_normal((rows, width)).astype(dtype), "y": np.ones(7)}
    own = {"x": whole["x"][here].copy(), "y": np.ones(7 if rank == size - 1 else 0)}
    options = {"lr": schedules.cosine_decay(0.1, 30), "seed": 4, "skip_nonfinite": True}
    options["max_grad_norm"] = 50.0
    if state_dtype != "None":
        options["state_dtype"] = state_dtype
        del whole["y"], own["y"]
    cls = getattr(fastadam, name)
    return DistributedOptimizer(own, cls, **options), cls(whole, **options), here


def train_parts(spread, alone, here, steps, seed):
    rng = np.random.default_rng(seed)
    own, whole = spread.params, alone.params
    for step in range(steps):
        grad = rng.standard_normal(whole["x"].shape).astype(whole["x"].dtype)
        if step == 5:
            grad[-1, 3] = np.inf
        grads = {"x": grad, "y": None if step % 4 == 1 else np.full(7, 0.5)}
        local = {"x": grad[here], "y": grads["y"]}
        if local["y"] is not None and rank < size - 1:
            local["y"] = local["y"][:0]
        alone.step({key: grads[key] for key in whole})
        spread.step({key: local[key] for key in own})
        assert own["x"].tobytes() == whole["x"][here].tobytes(), step
        if "y" in own and rank == size - 1:
            assert own["y"].tobytes() == whole["y"].tobytes(), step
        if step != 5:
            assert spread.grad_norm == alone.grad_norm
    assert spread.skipped_steps == alone.skipped_steps
    assert spread.finished_steps == alone.finished_steps


def parts(name, state_dtype):
    """Each rank steps its rows of an array, with the bits of one process that steps all of it."""
    spread, alone, here = parts_and_whole(name, "float32", state_dtype)
    train_parts(spread, alone, here, 12, seed=2)
    assert spread.skipped_steps == 1
    own = spread.params
    if BY_NAME[name].averages_itself:
        averages = spread.averaged_params()["x"], alone.averaged_params()["x"]
        assert averages[0].tobytes() == averages[1][here].tobytes()
    refused = partial(check_refused, [own["x"]])
    last = size - 1
    bad = {k: np.ones_like(p) for k, p in own.items()}
    if rank == last:
        bad["x"] = np.ones((3, 3), np.float32)
    refused(lambda: spread.step(bad), ValueError, f"rank {last}: ", "grads['x']", "(3, 3)")
    if size > 1:
        lacking = {k: np.ones_like(p) for k, p in own.items()}
        if rank == last:
            lacking["x"] = None
        refused(lambda: spread.step(lacking), RuntimeError, "the ranks do not do the same")
        if state_dtype == "int8":
            odd = np.ones(5000 + 3 * (rank == 0), np.float32)
            refused(
                lambda: DistributedOptimizer(odd, fastadam.Adam, state_dtype="int8"), ValueError,
                "rank 1: params begins at number 5003",
            )  # fmt: skip


def parts_checkpoint(path, mode, name, dtype, state_dtype):
    """Parts that were saved on some ranks go on as others on other ranks, and as a whole."""
    spread, alone, here = parts_and_whole(name, dtype, state_dtype)
    if mode == "save":
        train_parts(spread, alone, here, 4, seed=2)
        spread.save(path, params=True, rng=np.random.default_rng(7))
        check_file(path, alone)
        return
    for opt in (spread, alone):
        for param in opt.params.values():
            param[...] = 0
        opt.load(path, rng=np.random.default_rng())
    assert spread.finished_steps == 4
    train_parts(spread, alone, here, 4, seed=3)
    shorter = {key: param[:1].copy() for key, param in spread.params.items()}
    other = DistributedOptimizer(shorter, type(alone), **{
        key: alone.defaults[key] for key in ("lr", "state_dtype")
    })  # fmt: skip
    check_refused(
        list(shorter.values()),
        lambda: other.load(path, rng=[]),
        ValueError,
        "of params[",
        "has shape",
    )


def cuts():
    """All numbers are in one piece; blocks are whole, and arrays of 4,096 numbers have no piece
    with fewer."""
    some = [0, 1, 5, 4095, 4096, 4097, 8191, 8192, 12287, 100_000, 70_000]
    cases = itertools.product((1, 2, 3, 5), range(len(some)), (1, 3, 11), (1, 5000, 50_000, 10**9))
    for ranks, first, n, most in cases:
        sizes = (some[first:] + some[:first])[:n]
        places = [0] * n
        for found in cut(range(n), sizes, ranks, most):
            assert len(found.pieces) == ranks
            assert sum(found.counts) > 0
            for segment in itertools.chain(*found.pieces):
                i, start, stop = segment
                assert start == places[i]
                assert start % NORM_BLOCK == 0
                assert stop == sizes[i] or stop % NORM_BLOCK == 0
                assert segment.size >= min(sizes[i], NORM_BLOCK) > 0
                places[i] = stop
        assert places == sizes
    for found in cut([0], [16_777_216], 4, 1 << 20):
        assert max(found.counts) - min(found.counts) <= NORM_BLOCK


def untouched():
    """Without a gradient on any rank an array stays as it is, also beside others in a bucket."""
    params = [np.full(5, 1.0 + rank), np.ones(5)]
    opt = ZeroRedundancyOptimizer(params, fastadam.Adam)
    opt.step([None, np.ones(5)])
    assert (params[0] == 1.0 + rank).all()
    both = [[np.ones(5), np.ones(5, np.float32)] for _ in range(2)]  # in buckets of their own
    spread = ZeroRedundancyOptimizer(both[0], fastadam.Adam, max_grad_norm=1.0)
    alone = fastadam.Adam(both[1], max_grad_norm=1.0)
    for opt in (spread, alone):
        opt.step([np.ones(5), np.ones(5, np.float32)])
        opt.step([None, np.ones(5, np.float32)])
    assert same(*both)
    assert spread.grad_norm == alone.grad_norm


def columns(path):
    """Parts that do not fit along their first axis are a vector in a file; blocks stay whole."""
    own = np.full((5, 2 + rank), 1.0 + rank, np.float32)
    opt = DistributedOptimizer(own, fastadam.Adam)
    opt.save(path, params=True)
    expected = own.copy()
    own[...] = 0
    opt.load(path)
    assert same([own], [expected])
    vector = np.zeros(5 * sum(2 + r for r in range(size)), np.float32)
    fastadam.Adam(vector).load(path)
    assert same([vector], [np.concatenate([p.reshape(-1) for p in comm.allgather(expected)])])

    few = np.ones(99 if rank == size - 1 else 4096, np.float32)
    mixed = DistributedOptimizer(few, fastadam.Adam, state_dtype="int8")
    check_refused([few], lambda: mixed.save(path), ValueError, "params has state in 8 bits on some")
    coded = DistributedOptimizer(np.ones(4096, np.float32), fastadam.Adam, state_dtype="int8")
    coded.save(path)
    rest = 4096 * (size - 1) - 1
    cut = np.ones(4097 if rank == 0 else rest // (size - 1), np.float32)
    plain = DistributedOptimizer(cut, fastadam.Adam)
    check_refused([cut], lambda: plain.load(path), ValueError, "begins at number 4097; expected")


def schedule_free(path):
    """Averages of parts; a state at the point of evaluation is refused, as there is no train()."""
    w, own, of_all = np.ones(6), np.ones(6), np.ones(6)
    alone = fastadam.AdamWScheduleFree(w)
    parts = DistributedOptimizer(own, fastadam.AdamWScheduleFree)
    spread = ZeroRedundancyOptimizer(of_all, fastadam.AdamWScheduleFree)
    assert same([parts.averaged_params(), spread.averaged_params()], [w, w])
    for opt in (alone, parts, spread):
        for _ in range(3):
            opt.step(np.arange(6.0))
        assert opt.averaged_params().tobytes() == alone.averaged_params().tobytes()
    alone.eval()
    if rank == 0:
        alone.save(path)
    comm.Barrier()
    for call in (
        lambda: spread.load(path),
        lambda: spread.load_state_dict(alone.state_dict()),
        lambda: parts.load_state_dict(alone.state_dict()),
    ):
        check_refused([own, of_all], call, ValueError, "there is no train()")
    for opt in (parts, spread):
        opt.param_groups[0]["train_mode"] = False
        check_refused(
            [own, of_all], lambda opt=opt: opt.step(w), RuntimeError, "rank 0: the parameters"
        )


def empty_parts(path):
    """A rank without numbers may follow one whose last block is not whole; all may have none."""
    options = {"state_dtype": "int8"}
    w, none = np.ones(4099 if rank == 0 else 0, np.float32), np.ones((0, 3), np.float32)
    opt = DistributedOptimizer([w, none], fastadam.Adam, **options)
    opt.step([w, none])
    opt.save(path, params=True)
    opt.load(path)
    alone = fastadam.Adam([np.ones(4099, np.float32), none.copy()], **options)
    alone.load(path)
    assert alone.finished_steps == 1


def overflows():
    """A norm beyond the range of float64 is infinite, also where NumPy is to raise for that."""
    w = np.ones(9)
    with np.errstate(all="raise"):
        for cls in (ZeroRedundancyOptimizer, DistributedOptimizer):
            opt = cls(w, fastadam.Adam, skip_nonfinite=True)
            opt.step(np.full(9, 1.7e308))
            assert opt.grad_norm == np.inf
            assert opt.skipped_steps == 1
    # One rank's gradient becomes infinite as float32, while its norm in double is finite.
    grad = np.full(9, 3e38 if rank == size - 1 else 1.0, np.float32)
    for cls, loss_scale in ((ZeroRedundancyOptimizer, 0.5 / size), (DistributedOptimizer, 0.5)):
        opt = cls(np.ones(9, np.float32), fastadam.Adam, skip_nonfinite=True)
        opt.step(grad, loss_scale=loss_scale)
        assert np.isfinite(opt.grad_norm)
        assert opt.skipped_steps == 1


def rows():
    """Rows are refused before they are kept, where no step could take them."""
    w = np.ones((4, 2))
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    check_refused(
        [w], lambda: opt.accumulate(fastadam.RowGrad([1], np.ones((1, 2)))), TypeError, "some rows"
    )
    opt.step(w)


def many():
    """More optimizers than MPI has communicators, one after the other, beside one that stays."""
    half = comm.Split(rank % 2)
    w = np.ones(3)
    first = ZeroRedundancyOptimizer(w, fastadam.Adam)
    for i in range(2500):
        ZeroRedundancyOptimizer(np.ones(1), fastadam.Adam, half if i % 2 else None)
    first.step(w)


def examples():
    """Those of the docstrings."""
    for module in (_base, _distributed, _zero):
        result = doctest.testmod(module, globs={})
        assert result.attempted > 5
        assert result.failed == 0


def refusals():
    spread, *_ = pair("Adam")
    for call, kind, words in (
        (lambda: copy.deepcopy(spread), TypeError, "use state_dict or save"),
        (lambda: spread.add_param_group({"params": np.ones(2)}), TypeError, "to the constructor"),
        (spread.averaged_params, ValueError, "there is no average"),
    ):
        check_refused([], call, kind, words)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
