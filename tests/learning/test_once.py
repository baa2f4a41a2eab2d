"""What several readers of a process need is read once, and not kept for ever."""

from pathlib import Path

from flctl.learning.once import MOST, Once


def test_what_has_not_been_wanted_for_longest_goes(tmp_path: Path):
    """Runs with ever other arguments do not fill the memory of a coordinator's worker."""
    once, read = Once(), []

    def get(key: int) -> int:
        def found() -> int:
            read.append(key)
            return key

        return once.get(key, [None], found)

    for key in range(MOST):
        get(key)
    get(0)
    get(MOST)
    assert get(0) == 0 and read == [*range(MOST + 1)]
    get(1)
    assert read == [*range(MOST + 1), 1]


def test_a_file_that_has_changed_is_read_again(tmp_path: Path):
    once, path = Once(), tmp_path / "a"
    path.write_text("1")
    assert [once.get("a", [path], path.read_text) for _ in range(2)] == ["1", "1"]
    path.write_text("22")
    assert once.get("a", [path], path.read_text) == "22"
