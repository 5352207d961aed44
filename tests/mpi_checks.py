"""What the programs under mpiexec have in common: arrays, gradients, and what must be the same."""

import pathlib

import numpy as np
from mpi4py import MPI

import fastadam
from fastadam import _files, schedules
from fastadam.mpi import ZeroRedundancyOptimizer

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
