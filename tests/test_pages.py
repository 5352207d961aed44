"""The pages of docs/ do what they show; tests/page.py says what that is.

The programs of recipes.md are no pages of one program, and have tests of their own.
"""

import pathlib
import subprocess
import sys

import page
import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = [
    path.relative_to(DOCS).as_posix()
    for path in sorted(DOCS.rglob("*.md"))
    if path.name != "recipes.md" and page.BLOCK.search(path.read_text(encoding="utf-8"))
]


@pytest.fixture
def backend():
    """What is printed does not depend on it, and the pages are long."""


def run(path, folder):
    return subprocess.run(
        [sys.executable, "-P", page.__file__, str(path)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_docs(name, tmp_path):
    done = run(DOCS / name, tmp_path)
    if done.returncode == page.MISSING:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-3000:]


NOT_RUN = "<!-- not run: it needs a machine that nobody has -->"
RIGHT = f"""
```python
x = 1
print(x)  # 1
```

A sentence.

```python
print(x + 1)
print("took", 0.123, "s")
```

```text
2
took ... s
```

- In a list:

  ```python
  x += 5
  ```

{NOT_RUN}
```python
import machine_that_nobody_has
```

```sh
exit 1
```

```python
# program.py
import sys
print("program", sys.argv[1])
```

```console
$ python program.py 3
program 3
$ python program.py 4
```
"""


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("x = 1", "x = y", "NameError"),
        ("print(x)  # 1", "print(x)  # 2", "but this was printed"),
        ("print(x)  # 1", "print(x)", "but this was printed"),
        ("took ... s", "took ... ms", "but this was printed"),
        ("  x += 5", "  x += z", "NameError"),
        ("program 3", "program 4", "but this was printed"),
        ("import sys", "import sys; sys.exit(2)", "ended with 2"),
        (NOT_RUN, "", "machine_that_nobody_has is not installed"),
        (NOT_RUN, "<!-- not run: -->", "machine_that_nobody_has is not installed"),
        ("$ python ", "$ program_that_nobody_has ", "program_that_nobody_has is not installed"),
    ],
)
def test_what_is_wrong_on_a_page_is_found(right, wrong, says, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(RIGHT)
    done = run(path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert right in RIGHT
    path.write_text(RIGHT.replace(right, wrong))
    done = run(path, tmp_path)
    assert done.returncode == (page.MISSING if "not installed" in says else 1)
    assert says in done.stdout + done.stderr
