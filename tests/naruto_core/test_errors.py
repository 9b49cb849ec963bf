"""The parts of messages that several of them share."""

from naruto_core.errors import amount


def test_one_thing_is_in_the_singular_and_every_other_number_is_in_the_plural():
    assert [amount(n, "picture") for n in (0, 1, 1221)] == ["0 pictures", "1 picture", "1,221 pictures"]
