"""Maps as text: what is refused and where, and what a map is parsed to."""

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purejaxppo import ConfigError, GridWorld
from purejaxppo.environments import maps
from tests.support.reference import parsed

CORRIDOR = "S..M\n.D#m"
SHIPPED = {"treasure": (6, 6), "dragons": (8, 8), "maze": (16, 16), "four-rooms": (13, 13), "cliff": (4, 8)}


@st.composite
def random_maps(draw):
    """Rectangles of any symbols, rich in floor; an 'S' somewhere in half of them."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    alphabet = draw(st.sampled_from([".....##MmD", "...#M", ".....SS##MmD", "#.SMmD"]))
    row = st.text(st.sampled_from(alphabet), min_size=columns, max_size=columns)
    return "\n".join(draw(st.lists(row, min_size=rows, max_size=rows)))


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("\n", 1, 1),
        ("\n\n\n", 1, 1),
        ("  \n \n", 1, 1),
        ("..M\n..\n...", 2, 3),  # too short: where the first character is missing
        ("..M\n...\n....", 3, 4),  # too long: the first character too many
        ("..M\n...\n\n...", 3, 1),
        ("..M\n.x.\n...", 2, 2),
        ("..M\n...\n..\t", 3, 3),
        ("..M\n..s", 2, 3),
        ("#M\n##", 1, 1),  # nowhere to stand
        ("MmD\nDDD", 1, 1),
        ("..#\n###\n..M", 1, 1),
        ("...\n...", 1, 1),  # no money at all
        ("###\n#D#\n#S#", 3, 2),
        ("###S\n##.#\n.M.S\n....", 1, 4),  # a wall all around the first start
        ("S..M\n####\n..S.", 3, 3),
        ("M..\n.#D\n.D.", 3, 3),  # only dragons lie between the corner and the money
        ("SDM", 1, 1),
        ("MS\nDD\nSD", 3, 1),
    ],
)
def test_malformed_map_names_line_and_column(text, line, column):
    with pytest.raises(ConfigError, match=rf"line {line}, column {column}:"):
        GridWorld(text)


def test_whitespace_on_one_line_is_refused():
    with pytest.raises(ConfigError):
        GridWorld("   ")


def test_way_may_not_lead_through_another_goal_but_any_goal_will_do():
    # Entering a goal ends the episode: the start reaches the near goal, and that is enough.
    assert len(GridWorld("SmM").map.starts) == 1
    # Floor that is not a start may be shut in.
    assert len(GridWorld("SM#.").map.starts) == 1


@pytest.mark.parametrize("text", ["SM", "S\nM", ".M", ".m", "S..#\n...m"])
def test_small_maps_are_accepted(text):
    assert GridWorld(text).layout == text


def test_malformed_file_names_line_and_column(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("..M\n.?.\n")
    with pytest.raises(ConfigError, match="line 2, column 2:"):
        GridWorld(path)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_name_text_and_file_are_one_map(name, tmp_path):
    by_name = GridWorld(name)
    text = "\n".join("".join(row) for row in drawn(by_name))
    path = tmp_path / "map.txt"
    path.write_text(text + "\n")
    for same in (GridWorld(text), GridWorld(text + "\n"), GridWorld(path), GridWorld(str(path))):
        assert same == by_name
        assert hash(same) == hash(by_name)
        assert same.layout == text
    assert GridWorld(path, mask_blocked=False) != by_name
    assert GridWorld(path, features_as="coordinates") != by_name


def drawn(env):
    """The map redrawn from what was parsed."""
    rows, columns = env.map.shape
    drawing = [["#"] * columns for _ in range(rows)]
    for (row, column), symbol in zip(env.map.position.tolist(), env.map.symbol.tolist(), strict=True):
        drawing[row][column] = symbol
    return drawing


def test_different_maps_differ():
    assert GridWorld("S.M") != GridWorld("S.m")
    assert len({GridWorld("S.M"), GridWorld("S.m"), GridWorld("S.M\n")}) == 2


@pytest.mark.parametrize("text", ["\n{}\n\n", "{}\r\n", "\r\n{}"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_any_system_and_blank_lines_around_a_map(tmp_path, text, end):
    text = text.format(CORRIDOR.replace("\n", end))
    assert GridWorld(text) == GridWorld(CORRIDOR)
    path = tmp_path / "map.txt"
    path.write_bytes(text.encode("utf-8-sig"))  # as Notepad does
    assert GridWorld(path) == GridWorld(CORRIDOR)


@pytest.mark.parametrize(("wrong", "near"), [("tresure", "treasure"), ("four_rooms", "four-rooms"), ("mase", "maze")])
def test_unknown_name_suggests_the_nearest(wrong, near):
    with pytest.raises(ConfigError, match=rf"{wrong}.*did you mean '{near}'"):
        GridWorld(wrong)


def test_unknown_name_without_a_near_one_lists_all():
    with pytest.raises(ConfigError, match=r"zzzzzz.*cliff.*dragons.*four-rooms.*maze.*treasure"):
        GridWorld("zzzzzz")


def test_unreadable_files(tmp_path):
    binary = tmp_path / "binary.txt"
    binary.write_bytes(bytes(range(256)))
    for path in (binary, str(binary), tmp_path):
        with pytest.raises(ConfigError, match=r"must be a regular file|must be text in UTF-8"):
            GridWorld(path)
    with pytest.raises(ConfigError, match="missing"):
        GridWorld(tmp_path / "missing.txt")
    (tmp_path / "utf-16.txt").write_bytes("S.M".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"must be text in UTF-8 \(it is UTF-16\)"):
        GridWorld(tmp_path / "utf-16.txt")


def test_what_never_ends_or_is_too_large_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(5 * 2**30)  # sparse
    for path, said in (("pipe.txt", "regular file"), ("large.txt", "at most"), ("/dev/zero", "regular file")):
        with pytest.raises(ConfigError, match=f"layout=.*must be a (file of )?{said}"):
            GridWorld(str(tmp_path / path))
    with pytest.raises(ConfigError, match=r"layout=.*without a NUL character"):
        GridWorld("a\0b.txt")


def test_long_line_that_is_no_map_and_no_path_is_refused():
    with pytest.raises(ConfigError):
        GridWorld("." * 300 + "x" + "M")


@pytest.mark.parametrize("layout", [None, 3, b"..M", ["..M"]])
def test_layout_of_another_type_is_refused(layout):
    with pytest.raises(ConfigError, match="layout"):
        GridWorld(layout)


def test_features_as_is_checked():
    with pytest.raises(ConfigError, match="features_as"):
        GridWorld("S.M", features_as="onehot")


def test_all_shipped_maps_are_known():
    assert maps.names() == sorted(SHIPPED)


@pytest.mark.parametrize(("name", "shape"), SHIPPED.items())
def test_shipped_maps_parse(name, shape):
    env = GridWorld(name)
    assert env.map.shape == shape
    assert parsed(env.layout)[3] == []
    assert_agrees(env.map, env.layout)


@settings(max_examples=300, deadline=None)
@given(random_maps())
def test_parse_agrees_with_loops(text):
    *_, shut_in = parsed(text)
    has_floor = "." in text or "S" in text
    if has_floor and not shut_in:
        assert_agrees(maps.parse(text), text)
        return
    with pytest.raises(ConfigError) as raised:
        maps.parse(text)
    line, column = map(int, re.search(r"line (\d+), column (\d+):", str(raised.value)).groups())
    assert (line - 1, column - 1) in (shut_in if has_floor else [(0, 0)])


def assert_agrees(found, text):
    cells, leads_to, starts, _ = parsed(text)
    lines = text.split("\n")
    number = {cell: i for i, cell in enumerate(cells)}
    assert found.shape == (len(lines), len(lines[0]))
    assert [tuple(cell) for cell in found.position.tolist()] == cells
    assert found.symbol.tolist() == [lines[r][c] for r, c in cells]
    assert found.next_cell.tolist() == [[number[target] for target in leads_to[cell]] for cell in cells]
    assert found.is_open.tolist() == [[target != cell for target in leads_to[cell]] for cell in cells]
    assert found.starts.tolist() == [number[cell] for cell in starts]
