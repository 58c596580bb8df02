import purejaxppo


def test_import():
    assert set(purejaxppo.__all__) <= set(dir(purejaxppo))
