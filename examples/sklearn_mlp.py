"""scikit-learn's MLPClassifier, trained by its own Adam and by fastadam.

    pip install '.[examples]' && python examples/sklearn_mlp.py

On the digits: test accuracy, whether the coefficients are the same (in float64 they are, bit for
bit), and the seconds of a whole fit: of three fits, by turns, the shortest. Most of a fit is
matrix products, which fastadam leaves alone: expect little, and least with large batches.
"""

import argparse
import time

import numpy as np
from digits import load
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from fastadam.sklearn import patched_sklearn


def fit(data, dtype, **options):
    """A trained model, its test accuracy and the seconds that the fit took."""
    x_train, x_test, y_train, y_test = data
    model = MLPClassifier(max_iter=60, random_state=0, early_stopping=True, **options)
    start = time.perf_counter()
    model.fit(x_train.astype(dtype), y_train)
    seconds = time.perf_counter() - start
    return model, model.score(x_test.astype(dtype), y_test), seconds


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    threadpool_limits(1, user_api="blas")  # matrix products this small are faster without
    data = load()
    fit(data, np.float64)
    print(f"{'':26} {'test accuracy':^23} {'seconds of a fit':^23}")
    columns = f"{'fastadam':>10} {'scikit-learn':>12}"
    print(f"{'layers, batch, dtype':26} {columns} {columns}  coefficients")
    for layers, batch in (((100,), 200), ((100,), 10), ((256, 128), 32)):
        for dtype in (np.float64, np.float32):
            options = {"hidden_layer_sizes": layers, "batch_size": batch}
            our_seconds, their_seconds = [], []
            for _ in range(3):
                theirs, their_accuracy, seconds = fit(data, dtype, **options)
                their_seconds.append(seconds)
                with patched_sklearn():
                    ours, our_accuracy, seconds = fit(data, dtype, **options)
                our_seconds.append(seconds)
            pairs = zip(ours.coefs_, theirs.coefs_, strict=True)
            equal = all(np.array_equal(a, b) for a, b in pairs)
            title = f"{layers}, {batch}, {np.dtype(dtype)}"
            print(
                f"{title:26} {our_accuracy:10.2%} {their_accuracy:12.2%} "
                f"{min(our_seconds):10.2f} {min(their_seconds):12.2f}  "
                f"{'equal' if equal else 'not equal'}"
            )
    print(
        "In float32 the coefficients are not equal: scikit-learn's own Adam computes a part of "
        "each step\nin float64, fastadam all of it in float32."
    )


if __name__ == "__main__":
    main()
