"""Files of the project that repeat each other agree."""

import re
import tomllib
from pathlib import Path

import pytest

import fastadam

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "CITATION.cff").exists(), reason="the project's files are not beside the tests"
)


@pytest.fixture
def backend():
    """Files: once is enough."""


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (.*)$"),
        ("tools/conda/recipe.yaml", r'^  version: "(.*)"$'),
        ("CHANGELOG.md", r"^## ([\d.]+)"),
    ],
)
def test_version(file, pattern):
    found = re.search(pattern, (ROOT / file).read_text(), re.M)
    assert found[1] == fastadam.__version__


def test_pythons():
    """Those with wheels are those of the classifiers, and the oldest is required."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheels = settings["tool"]["cibuildwheel"]["build"]
    minors = re.fullmatch(r"cp3\{([\dt,]+)\}-\*", wheels)[1].split(",")
    classifiers = re.findall(r":: 3\.(\d+)", " ".join(settings["project"]["classifiers"]))
    assert [minor for minor in minors if not minor.endswith("t")] == classifiers
    assert settings["project"]["requires-python"] == f">=3.{minors[0]}"
    workflow = (ROOT / ".github/workflows/wheels.yml").read_text()
    built = re.search(r"python: \[(.*)\]", workflow)[1].split(", ")
    assert built == [f"cp3{minor}" for minor in minors]


def test_actions_are_pinned():
    uses = [
        line.split("uses:")[1].strip()
        for file in (ROOT / ".github/workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if "uses:" in line
    ]
    assert uses
    for use in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", use)
    assert len(set(uses)) == len({use.partition("@")[0] for use in uses})


def test_sessions_are_described():
    """Each session of noxfile.py has its row in CONTRIBUTING.md; bold are those of plain nox."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("| session |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\*\*)?(\w+)", text, re.M)
    described = {name: bool(bold) for bold, name in rows}
    code = (ROOT / "noxfile.py").read_text()
    sessions = re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)\(", code, re.M)
    default = re.findall(r'"(\w+)"', re.search(r"options\.sessions = \[(.*)\]", code)[1])
    assert described == {name: name in default for name in sessions}


def anchors(path):
    """Those that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name
)
def test_links(page):
    """Those to files and headings lead somewhere on GitHub; Sphinx looks only at the site."""
    text = re.sub(r"(?s:```.*?```)|`[^`\n]*`", "", page.read_text())
    for link in re.findall(r"\]\(([^()\s]+)", text):
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), link
            assert not anchor or anchor in anchors(file), link
