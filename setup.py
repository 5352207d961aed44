"""Build the C extensions: csrc/kernel.c once for each instruction set and dtype.

Everything else is in pyproject.toml. Without a working compiler the build goes
on and the package runs on its NumPy implementation.
"""

import glob
import os
import platform
import re
import sysconfig
import tempfile

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# For each family of CPUs, best first: the set's name, two questions of csrc/cpu.h (may a CPU run
# it, and does it pay there?), and its compiler flags (GCC and Clang, MSVC; None: not with that).
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {
    "x86": [
        ("avx512_estimate", "avx512", "slow_roots", [*AVX512, "-DFA_ESTIMATE"], None),
        ("avx512", "avx512", "baseline", AVX512, ["/arch:AVX512"]),
        ("avx2", "avx2", "baseline", ["-mavx2", "-mf16c"], ["/arch:AVX2"]),
        ("sse2", "baseline", "baseline", ["-msse2"], []),
    ],
    "arm64": [("neon", "baseline", "baseline", [], [])],
    "other": [("generic", "baseline", "baseline", [], [])],
}
DTYPES = {"float32": "32", "float64": "64"}  # and their bits

# The rule's bits need contraction off (GCC fuses even where the C says not to);
# its speed needs the other two, without which sqrt and the selects stay scalar.
UNIX_FLAGS = [
    "-O3",
    "-g0",  # Python's own flags ask for debug information; symbols stay, tests read them
    "-std=c11",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]
HEADERS = glob.glob("csrc/**/*.h", recursive=True)


def one_cpu():
    """Flags to compile for one CPU where Python's own ask for two, as python.org's on macOS do.

    A kernel's flags are those of its CPU. ARCHFLAGS chooses it, or else it is this machine's;
    the wheel's tag says so.
    """
    tag = sysconfig.get_platform()
    if not tag.endswith("universal2"):
        return []
    asked = re.findall(r"-arch\s+(\w+)", os.environ.get("ARCHFLAGS", ""))
    cpu = asked[0] if len(asked) == 1 else platform.machine()
    os.environ["_PYTHON_HOST_PLATFORM"] = tag.replace("universal2", cpu)
    return ["-arch", cpu]


ONE_CPU = one_cpu()


def cpu_family():
    """The target's family, from the platform tag: right for cross builds, too."""
    tag = sysconfig.get_platform()
    if tag.endswith(("x86_64", "amd64")):
        return "x86"
    if tag.endswith(("aarch64", "arm64")):
        return "arm64"
    return "other"


class BuildKernels(build_ext):
    """Compile the kernels with their own flags, then the extensions as usual."""

    def run(self):
        # setuptools takes `inplace` away while it builds, and copies afterwards
        in_sources = self.inplace or self.editable_mode
        self.note_folder = "fastadam" if in_sources else os.path.join(self.build_lib, "fastadam")
        super().run()

    def build_extension(self, ext):
        msvc = self.compiler.compiler_type == "msvc"
        flags = MSVC_FLAGS if msvc else [*UNIX_FLAGS, *ONE_CPU]
        ext.extra_compile_args += flags
        ext.extra_link_args += ONE_CPU
        if ext.name != "fastadam._native":
            super().build_extension(ext)
            return
        note = os.path.join(self.note_folder, "_not_built.txt")
        try:
            self.add_kernels(ext, msvc, flags)
            super().build_extension(ext)
        except (CompileError, LinkError) as error:  # the package goes without it, and says why
            os.makedirs(self.note_folder, exist_ok=True)
            with open(note, "w", encoding="utf-8") as file:
                # of a command that failed, only the program
                file.write(re.sub(r"\['(.*?)'.*\]", r"\1", str(error)).rstrip("."))
            raise
        if os.path.exists(note):
            os.remove(note)

    def add_kernels(self, ext, msvc, flags):
        openmp = "/openmp" if msvc else "-fopenmp"
        if self.has_openmp(openmp):
            ext.extra_compile_args.append(openmp)
            ext.extra_link_args += [] if msvc else [openmp]
        rows = []
        for name, cpu, pays, unix, windows in INSTRUCTION_SETS[cpu_family()]:
            own_flags = windows if msvc else unix
            if own_flags is None:
                continue
            try:
                objects = self.compile_kernels(name, flags + own_flags)
            except CompileError:
                if cpu == "baseline":
                    raise
                self.warn(f"the compiler cannot make {name} kernels; leaving them out")
            else:
                ext.extra_objects += objects
                rows.append(f"X({name},{cpu},{pays})")
        ext.define_macros += [
            ("FA_COMPILED", " ".join(rows)),
            ("FA_BUILT_WITH", f'"{self.describe_compiler(flags)}"'),
        ]

    def has_openmp(self, flag):
        """Whether a program that starts threads compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "openmp.c")
            with open(source, "w") as file:
                file.write(
                    "#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n"
                )
            try:
                flags = [flag, *ONE_CPU]
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=flags)
                self.compiler.link_shared_object(
                    objects, os.path.join(folder, "openmp.so"), extra_postargs=flags
                )
            except (CompileError, LinkError):
                self.warn("the compiler has no OpenMP; fastadam will use one thread")
                return False
        return True

    def compile_kernels(self, isa, flags):
        objects = []
        for dtype, bits in DTYPES.items():
            name = f"{isa}_{dtype}"
            objects += self.compiler.compile(
                ["csrc/kernel.c"],
                output_dir=os.path.join(self.build_temp, name),
                macros=[("FA_BITS", bits), ("FA_NAME", name)],
                include_dirs=["csrc"],
                extra_postargs=flags,
                depends=HEADERS,
            )
        return objects

    def describe_compiler(self, flags):
        command = getattr(self.compiler, "compiler_so", None) or ["msvc"]
        return " ".join([os.path.basename(command[0]), *flags])


C_FILES = [
    "blocks",
    "coded",
    "cpu",
    "isas",
    "merge_rows",
    "norm",
    "power",
    "scalars",
    "share",
    "step",
]
SOURCES = {
    "fastadam._native": ["fastadam/_native.pyx", *(f"csrc/{name}.c" for name in C_FILES)],
    "fastadam.torch._tensors": ["fastadam/torch/_tensors.pyx"],
}
extensions = cythonize(
    [
        Extension(
            name,
            sources,
            include_dirs=["csrc", numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
            depends=["csrc/kernel.c", *HEADERS],
        )
        for name, sources in SOURCES.items()
    ],
    language_level=3,
)
for ext in extensions:
    ext.optional = True  # cythonize drops it when given to Extension (Cython 3.3.1)

setup(ext_modules=extensions, cmdclass={"build_ext": BuildKernels})
