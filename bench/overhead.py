"""What an array in a list costs besides its elements, in nanoseconds.

python bench/overhead.py

Arrays without elements are matched, checked and counted as all others, but no kernel is
called; with ten, one is.
"""

import numpy as np

import fastadam
from fastadam._bench.timing import measure


def arrays(count, elements):
    return [np.ones(elements, np.float32) for _ in range(count)]


def in_list(count, elements):
    opt, grads = fastadam.Adam(arrays(count, elements)), arrays(count, elements)
    return lambda: opt.step(grads)


def in_dict(count, elements):
    names = [f"layer{i}.weight" for i in range(count)]
    opt = fastadam.Adam(dict(zip(names, arrays(count, elements), strict=True)))
    grads = dict(zip(names, arrays(count, elements), strict=True))
    return lambda: opt.step(grads)


def in_adam_step(count, elements):
    columns = [arrays(count, elements) for _ in range(4)]
    return lambda: fastadam.adam_step(*columns, step=1)


def main():
    fastadam.set_num_threads(1)
    makers = {"list": in_list, "dict": in_dict, "adam_step": in_adam_step}
    print("arrays x elements | " + " | ".join(makers))
    for count in (100, 1_000):
        for elements in (0, 10):
            times = measure({name: make(count, elements) for name, make in makers.items()})
            cells = [f"{np.median(t) / count * 1e9:.0f}" for t in times.values()]
            print(f"{count:,} x {elements} | " + " | ".join(cells))


if __name__ == "__main__":
    main()
