"""What a step of each member of the family costs, beside Adam's and beside its memory alone.

    python bench/members.py [THREADS]

First 100 arrays of 1,000 float32, all members interleaved in one process, with one thread, as so
few numbers always get; then one array of 67,108,864, each member interleaved with Adam, with as
many threads as it is told, or one. Medians of the rounds:

- bytes of state a number, and how many arrays of float32 a step reads and writes;
- the time of a step, and how many times as long as Adam's it takes;
- how many times as long as the streams alone (same loads and stores, one addition for each store);
- the same beside Adam: by what it is more, or less, than the streams account for;
- for 100 arrays, how many times as long the package takes that the member's authors, or others,
  made for PyTorch, where it is installed: schedulefree, lion-pytorch and pytorch-optimizer.

Streams are of float32, so moments in fewer bits have none; and in arrays as small as these 100,
moments stay in float32 where 8 bits are asked for.
"""

import sys
from functools import partial

import numpy as np

import fastadam
from fastadam import family
from fastadam._bench import rivals
from fastadam._bench.cli import Work, in_words, make_arrays
from fastadam._bench.timing import measure, ratio
from fastadam._machine import cpu_name

SMALL, LARGE = Work(100, 1_000), Work(1, 67_108_864)
ADAM = "Adam"
#: Of these members, options that change what a step reads and writes.
VARIANTS = {
    "Adam, amsgrad": (ADAM, {"amsgrad": True}),
    "Adam, bfloat16 state": (ADAM, {"state_dtype": "bfloat16"}),
    "Adam, 8-bit state": (ADAM, {"state_dtype": "int8"}),
    "RMSprop, centered, momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
}
OURS = {name: (name, {}) for name in sorted(family.__all__, key=str.lower)} | VARIANTS


def adopt(tensors):
    from pytorch_optimizer import ADOPT

    return ADOPT(tensors, foreach=True)


def ademamix(tensors):
    from pytorch_optimizer import AdEMAMix

    return AdEMAMix(tensors, foreach=True)


def lion(tensors):
    from lion_pytorch import Lion

    return Lion(tensors)


def schedule_free(tensors):
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(tensors)
    optimizer.train()
    return optimizer


PACKAGES = {"ADOPT": adopt, "AdEMAMix": ademamix, "Lion": lion, "AdamWScheduleFree": schedule_free}


def make_steps(name, params, grads):
    """A step of a member, and where it has them its streams; and its bytes of state a number."""
    member, options = OURS[name]
    optimizer = getattr(fastadam, member)(params, **options)
    for _ in range(6):  # ADOPT's first and RAdam's first five do less
        optimizer.step(grads)
    steps = {name: partial(optimizer.step, grads)}
    if "state_dtype" not in options:
        steps[streams_of(name)] = partial(optimizer._batch.streams, grads)
    return steps, optimizer.state_bytes / sum(param.size for param in params)


def streams_of(name):
    return f"streams of {name}"


def package_of(name):
    return f"package of {name}"


def make_package(make, params, grads):
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(param)) for param in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return make(tensors).step


def moved(state_bytes):
    """How many arrays a step reads and writes, as if all were float32."""
    states = state_bytes / 4
    return f"{2 + states:.3g} + {1 + states:.3g}"


def multiple(times, name, base):
    return f"{ratio(times, name, base):.2f}" if name in times and base in times else ""


def beside_adam(times, name):
    """How much longer a step takes than its streams, divided by the same of Adam."""
    if streams_of(name) not in times:
        return ""
    ours, adams = (times[x] / times[streams_of(x)] for x in (name, ADAM))
    return f"{np.median(ours / adams):.2f}"


def row(times, name, state_bytes, unit):
    return [
        name, f"{state_bytes:.2f}", moved(state_bytes),
        f"{np.median(times[name]) / unit:,.2f}", multiple(times, name, ADAM),
        multiple(times, name, streams_of(name)), beside_adam(times, name),
    ]  # fmt: skip


def print_row(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def print_head(work, threads, unit, more=()):
    head = [
        "member",
        "bytes of state",
        "arrays read + written",
        unit,
        "x Adam",
        "x streams",
        "beside Adam",
    ]
    print(f"\n{work} float32, {in_words(threads)}\n")
    print_row([*head, *more])
    print_row(["---", *["---:"] * (len(head) + len(more) - 1)])


def small():
    _, grads = make_arrays(SMALL, "float32")
    grads = [np.abs(grad) for grad in grads]  # streams add them to second moments
    params = {name: [np.ones_like(grad) for grad in grads] for name in (*OURS, *PACKAGES.values())}
    steps, state_bytes = {}, {}
    for name in OURS:
        more, state_bytes[name] = make_steps(name, params[name], grads)
        steps |= more
    for name, make in PACKAGES.items():
        try:
            steps[package_of(name)] = make_package(make, params[make], grads)
        except ImportError as error:
            print(f"without the package of {name}: {error}")
    rivals.set_threads(1)  # after their packages were imported
    times = measure(steps)
    print_head(SMALL, 1, "us", ["x the package takes"])
    for name in OURS:
        cells = row(times, name, state_bytes[name], 1e-6)
        print_row([*cells, multiple(times, package_of(name), name)])


def large(threads):
    (param,), (grad,) = make_arrays(LARGE, "float32")
    np.abs(grad, out=grad)
    fastadam.set_num_threads(threads)
    adam, _ = make_steps(ADAM, [param], [grad])
    print_head(LARGE, threads, "ms")
    for name in OURS:
        steps, state_bytes = make_steps(name, [param], [grad])
        times = measure({**adam, **steps}, rounds=9)
        print_row(row(times, name, state_bytes, 1e-3))
        del steps  # its state, before the next one's is made


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    isa = fastadam.show_config(mode="dicts")["instruction_set"]
    print(f"{cpu_name()}, {isa}")
    small()
    large(threads)


if __name__ == "__main__":
    main()
