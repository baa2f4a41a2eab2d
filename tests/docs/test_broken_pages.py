"""The reader of pages fails where a page is wrong: else the tests that read them show nothing."""

from pathlib import Path

import blocks
import marks
import pytest
from reader import reader

DESCRIBED = """
```
flctl data describe --task ecg
```

```
class  train  validation  {}  unseen  all  share
```
"""
FAILS = {
    "a command that fails": "```\nflctl data describe no-such-file.csv --task ecg\n```\n",
    "a command in a line that fails": "```\nflctl version && flctl no-such-command\n```\n",
    "an option that is gone": "```\nflctl version --no-such-option\n```\n",
    "an output that is not printed": DESCRIBED.format("tomorrow"),
}


@pytest.mark.parametrize("text", FAILS.values(), ids=FAILS)
def test_a_broken_page_fails(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (blocks, marks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}")
    with reader() as someone, pytest.raises(AssertionError, match=r"page\.md:\d+"):
        someone.read(page)


def test_a_right_page_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (blocks, marks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(DESCRIBED.format("later"))
    with reader() as someone:
        assert someone.read(page) == 1
