"""Runs what a page of the documentation shows; called with its path, in an empty folder.

All Python of a page is one program, in which a later block uses the names of those before it. What
it prints is in the comments behind each `print`, or in a block of text that follows. A block whose
first line is a comment with a file's name, such as ``# train.py``, is not run but written to that
file. A console block has commands behind ``$``, and what they print if that is to be compared.
``...`` stands for any output. Other blocks, such as ``sh``, are left, and so are those below
``<!-- not run: reason -->``.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

BLOCK = re.compile(
    r"(?P<left><!-- not run: \S.*? -->\s*)?^(?P<indent> *)```(?P<language>python|console)\n"
    r"(?P<body>.*?)^(?P=indent)```\n(\s*^(?P=indent)```text\n(?P<text>.*?)^(?P=indent)```)?",
    re.M | re.S,
)
MISSING = 77  # the exit code where something is not installed
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check_output(want, got, where):
    if not doctest.OutputChecker().check_output(want, got, FLAGS):
        sys.exit(f"{where} shows\n{want}\nbut this was printed:\n{got}")


def run_python(block, namespace, page, line):
    body = textwrap.dedent(block["body"])
    file = re.match(r"# ([\w.]+\.\w+)\n", body)
    if file:
        Path(file[1]).write_text(body)
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + body, page, "exec"), namespace)
    comments = re.findall(r"print\(.*\)  # (.*\n)", body)
    want = "".join(comments) if block["text"] is None else textwrap.dedent(block["text"])
    check_output(want, printed.getvalue(), f"{page}:{line}")


def run_console(block, page, line):
    for call in re.split(r"^\$ ", textwrap.dedent(block["body"]), flags=re.M)[1:]:
        command, _, want = call.partition("\n")
        program, *arguments = shlex.split(command)
        found = shutil.which(program)
        if found is None:
            print(f"{program} is not installed")
            sys.exit(MISSING)
        done = subprocess.run([found, *arguments], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{page}:{line}: {command} ended with {done.returncode}")
        if want:
            check_output(want, done.stdout, f"{page}:{line}: {command}")


def run(page):
    text, namespace = Path(page).read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        if block["left"]:
            continue
        line = text[: block.start("body")].count("\n")
        if block["language"] == "console":
            run_console(block, page, line)
        else:
            run_python(block, namespace, page, line)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        run(sys.argv[1])
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fastadam"):
            raise
        print(f"{error.name} is not installed")
        sys.exit(MISSING)
