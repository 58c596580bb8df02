"""Colours of the pictures, as `#rrggbb`."""

from purejaxppo.environments.maps import DRAGON, LOTS_OF_MONEY, MONEY

DARK, MIDDLE, LIGHT = "#08306b", "#2171b5", "#c6dbef"  # one hue, so that the picture survives without colour
STRONG = "#b35806"
PRIZES = {LOTS_OF_MONEY: "#ffc800", MONEY: "#d9a900", DRAGON: "#b00020"}


def ink(background: str) -> str:
    """Choose black or white, whichever is easier to read on this background."""
    red, green, blue = bytes.fromhex(background[1:])
    return "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 128 else "#000000"
