"""What test_mpi.py runs under mpiexec: ``python mpi_programs.py NAME ARGUMENTS``.

mpi_parts.py and mpi_files.py have some of the programs.
"""

import copy
import doctest
import itertools
import pathlib
import re
import sys
from functools import partial

import mpi_files
import mpi_parts
import numpy as np
from members import BY_NAME
from mpi_checks import (
    arrays_of,
    check_refused,
    comm,
    grads_of,
    mean,
    pair,
    rank,
    same,
    seen,
    size,
    train,
)

import fastadam
from fastadam._numpy import NORM_BLOCK
from fastadam.mpi import DistributedOptimizer, ZeroRedundancyOptimizer, _base, _distributed, _zero
from fastadam.mpi._cuts import cut


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
    {**vars(mpi_parts), **vars(mpi_files), **globals()}[name](*arguments)
