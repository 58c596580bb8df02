"""What an engineer writes runs, and is right for type checkers: `.ci/run` checks it under their strictest settings."""

import pytest

from tests.typing import client


@pytest.mark.long
def test_an_engineers_file_runs(tmp_path):
    assert client.use(tmp_path / "run") > 0
