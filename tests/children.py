"""What tests run in processes of their own; spawned ones import it from here."""

import numpy as np

import fastadam


def step_in_child(queue):
    p = np.ones(400_000)
    opt = fastadam.Adam(p)
    for _ in range(3):
        opt.step(np.ones(400_000))
    queue.put(p[[0, -1]].tolist())


def step_a_pickle(queue, opt):
    opt.step(np.ones(3))
    queue.put(opt.param_groups[0]["params"][0].tolist())
