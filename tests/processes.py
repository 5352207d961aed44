"""Functions that several processes run together, and what they find.

``python tests/processes.py FILE NAME RANK WORLD FOLDER`` is one of them; `together` starts all.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path


def together(function, world, folder):
    """Run a function of a test file in so many processes; what each returned.

    It is given the folder, in which it may leave files for others.
    """
    file = sys.modules[function.__module__].__file__
    folder = folder / function.__name__
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", __file__, file, function.__name__]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":  # a machine's own name may lead nowhere
        env["GLOO_SOCKET_IFNAME"] = "lo"
    logs = [folder / f"said by {rank}" for rank in range(world)]
    children = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as out:
                child = subprocess.Popen(
                    [*command, str(rank), str(world), str(folder)],
                    env=env,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            children.append(child)
        for child in children:
            child.wait(timeout=120)
    finally:
        for child in children:
            child.kill()
            child.wait()
        print(*(log.read_text() for log in logs if log.exists()))  # why one failed, or waited
    assert not any(child.returncode for child in children)
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(world)]


def main(file, name, rank, world, folder):
    import torch.distributed as dist

    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(world))
    spec = importlib.util.spec_from_file_location("the_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = getattr(module, name)(Path(folder).parent)
    (Path(folder) / rank).write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
    # At the interpreter's end, threads of a group that something still holds end the process with
    # an error (github.com/pytorch/pytorch/issues/190489).
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
