"""Train the network of digits.py on several processes, each with a part of every batch.

    pip install '.[examples,mpi]' mpich && mpiexec -n 2 python examples/mpi_training.py

Each process computes the gradient of its rows of a batch. ZeroRedundancyOptimizer averages these
and steps: every process has all parameters, and the state of its share alone. Rank 0 prints the
loss and how much state a process keeps, and at the end the accuracy on images that were not
trained on.
"""

import numpy as np
from digits import BATCH, EPOCHS, LR, forward, load, loss_and_gradients, make_params
from mpi4py import MPI
from threadpoolctl import threadpool_limits

import fastadam
from fastadam.mpi import ZeroRedundancyOptimizer

comm = MPI.COMM_WORLD


def say(text):
    if comm.rank == 0:
        print(text, flush=True)


def main():
    threadpool_limits(1, user_api="blas")
    fastadam.set_num_threads(1)  # or the processes take each other's cores
    x_train, x_test, y_train, y_test = load()
    rng = np.random.default_rng(0)  # the same on all ranks: parameters and order
    params = make_params(rng)
    optimizer = ZeroRedundancyOptimizer(params, fastadam.Adam, lr=LR)
    n_bytes = sum(param.nbytes for param in params.values())
    say(
        f"{comm.size} processes; parameters {n_bytes:,} bytes, "
        f"state of this one {optimizer.state_bytes:,}"
    )
    for epoch in range(1, EPOCHS + 1):
        order, losses = rng.permutation(len(x_train)), []
        batch = BATCH * comm.size
        for begin in range(0, len(order) - batch + 1, batch):
            rows = order[begin : begin + batch][comm.rank :: comm.size]
            loss, grads = loss_and_gradients(params, x_train[rows], y_train[rows])
            optimizer.step(grads)
            losses.append(loss)
        mean = comm.allreduce(float(np.mean(losses))) / comm.size
        if epoch % 5 == 0:
            say(f"epoch {epoch:2}: loss {mean:.4f}")
    optimizer.check_synced()
    accuracy = float((forward(params, x_test)[0].argmax(axis=1) == y_test).mean())
    say(f"test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
