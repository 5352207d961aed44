"""Programs of test_mpi.py whose arrays are spread over the ranks; see mpi_programs.py."""

from functools import partial

import numpy as np
from members import BY_NAME
from mpi_checks import check_file, check_refused, comm, rank, same, size

import fastadam
from fastadam import schedules
from fastadam.mpi import DistributedOptimizer


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
