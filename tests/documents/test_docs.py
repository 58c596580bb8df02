"""What the documents say: their code runs and prints what they show, their quotations and pictures are there."""

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

import purejaxppo

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
DRAW = runpy.run_path(str(ROOT / "docs" / "draw.py"))
blocks, run = DRAW["blocks"], DRAW["run"]


LONG = (
    "README.md",
    "bring-your-own.md",
    "from-the-video-to-the-code.md",
    "runs-and-sweeps.md",
    "write-your-own-update.md",
)
WITH_CODE = [pytest.param(page, marks=pytest.mark.long if page.name in LONG else ()) for page in PAGES]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda path: path.name)
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    printed = run(text)
    if blocks(text, "text"):
        assert printed == "".join(blocks(text, "text"))
    drawn = {path.name for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".py"}
    assert drawn == {Path(name).name for name in re.findall(r"\]\((pictures/.*?)\)", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!http)(.*?)\)", page.read_text()):
        assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_package_says_what_each_public_name_is_for():
    told = set(re.findall(r"`(\w+)`", purejaxppo.__doc__))
    assert told == set(purejaxppo.__all__)


def test_quoted_lines_are_the_librarys():
    page = ROOT / "docs" / "from-the-video-to-the-code.md"
    sections = re.split(r"^```py\n", page.read_text(), flags=re.MULTILINE)
    assert len(sections) > 8
    for before, after in pairwise(sections):
        source = re.findall(r"\]\((\.\./purejaxppo/.*?)\)", before)[-1]
        assert after.split("```")[0] in (page.parent / source).read_text(), source


def test_each_own_update_takes_at_most_15_lines():
    page = (ROOT / "docs" / "write-your-own-update.md").read_text()
    *sections, algorithm = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert algorithm.startswith("Another algorithm")
    assert len(sections) == 6
    for section in sections:
        parts = [block for block in blocks(section, "python") if block.startswith("# my_updates.py")]
        lines = [line for part in parts for line in part.splitlines()[1:] if line.strip()]
        assert len(lines) <= 15, section.splitlines()[0]
