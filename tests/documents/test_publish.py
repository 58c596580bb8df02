"""The pages hold what the committed results say."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as `python benchmarks/publish.py` does
publish = importlib.import_module("publish")


@pytest.mark.parametrize("page", publish.PAGES, ids=lambda page: page.parent.name)
def test_tables_are_those_of_the_results(page):
    assert page.read_text() == publish.filled(page.read_text())


def test_every_table_stands_somewhere():
    places = {place[2] for page in publish.PAGES for place in publish.PLACE.finditer(page.read_text())}
    assert places == set(publish.TABLES)


def test_another_result_changes_the_table(monkeypatch):
    report = publish.result("throughput")
    report["cases"][0]["steps_per_second"] = 1.23e9
    monkeypatch.setattr(publish, "result", lambda name: report)
    text = "before\n<!-- table: throughput -->\nold\n<!-- end -->\nafter"
    filled = publish.filled(text)
    assert "1.23e+03 M" in filled
    assert "old" not in filled
    assert filled.startswith("before\n<!-- table: throughput -->\n| environment")
    assert filled.endswith("\n<!-- end -->\nafter")


def test_check_tells_and_does_not_write(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: throughput -->\n<!-- end -->")
    monkeypatch.setattr(publish, "PAGES", (page,))
    assert publish.main(publish.Flags(check=True)) == 1
    assert "page.md" in capsys.readouterr().out
    assert page.read_text() == "<!-- table: throughput -->\n<!-- end -->"
