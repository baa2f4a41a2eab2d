"""Labels and requirements as people write them."""

import pytest

from flctl.errors import SettingsError, UsageError
from flctl.labels import MOST, changes, counting, matches, none_chosen, requirements
from flctl.settings import parse

LABELS = {"site": "ward-3", "model": "pi4"}


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ((), True),
        (("site=ward-3",), True),
        (("site=ward-4",), False),
        (("site=ward",), False),
        (("site!=ward-4",), True),
        (("site!=ward-3",), False),
        (("rack!=a",), True),
        (("site",), True),
        (("rack",), False),
        (("site=ward-3", "model=pi4"), True),
        (("site=ward-3", "model!=pi4"), False),
        (("Site=ward-3",), False),
    ],
)
def test_all_requirements_have_to_hold(where, chosen):
    """key!=value also chooses agents without the key, as in Kubernetes."""
    assert matches(where, LABELS) is chosen


def test_requirements_stand_side_by_side_or_with_commas():
    assert requirements("site=ward-3, model!=pi3,gpu", "--where") == (
        "site=ward-3", "model!=pi3", "gpu",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", ",", "site=", "=x", "!=x", "site==x", "si te=x", "site=x y", "-a=b", "a-=b", "a=b-", "ü=1",
     "a=" + "b" * 64, "a" * 64, "a/b=c", "a\x1b[31m=b", "a=\u202eb", "a!b", "!a"],
)  # fmt: skip
def test_what_is_no_requirement_is_refused_in_one_printable_line(text):
    with pytest.raises(UsageError) as caught:
        requirements(text, "--where")
    assert str(caught.value).startswith("--where '") and "write site=ward-3" in str(caught.value)
    assert str(caught.value).isprintable()


def test_changes_set_and_remove():
    assert changes(["site=ward-3", "model-"], "label", may_remove=True) == {
        "site": "ward-3", "model": None,
    }  # fmt: skip
    assert changes(["a.b_c-9=" + "x" * 63], "--label") == {"a.b_c-9": "x" * 63}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["site"], "write KEY=VALUE, each of up to 63 letters"),
        (["site-"], "write KEY=VALUE, each of"),
        (["site="], "write KEY=VALUE, each of"),
        (["site=a=b"], "write KEY=VALUE, each of"),
        (["site=\x1b[0m"], r"--label 'site=\x1b[0m'"),
        (["site=a", "site=b"], "the label 'site' is given twice"),
        ([f"k{n}=v" for n in range(MOST + 1)], f"{MOST + 1} labels, at most {MOST}"),
    ],
)
def test_what_is_no_label_is_refused(words, says):
    with pytest.raises(UsageError) as caught:
        changes(words, "--label")
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_what_an_operator_has_changed_counts_more():
    """A label that was removed stays away, whatever the agent says; all in order of the keys."""
    own = {"site": "ward-3", "model": "pi4", "rack": "a"}
    assert counting(own, {"site": "ward-9", "rack": None, "zone": "x"}) == {
        "model": "pi4", "site": "ward-9", "zone": "x",
    }  # fmt: skip
    many = {f"k{n:02}": "v" for n in range(MOST)}
    assert len(counting(many, {"zone": "x"})) == MOST and counting(many, {"zone": "x"})["zone"]


def test_none_chosen_names_the_labels_that_there_are():
    text = none_chosen(("site=ward-9",), [LABELS, {}, LABELS])
    assert text == "no agent is chosen by site=ward-9; the labels are model=pi4, site=ward-3"
    assert none_chosen(("a", "b"), [{}]).endswith("no agent has a label (flctl label)")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"where": ["site="]}, "where[0]: not a requirement on labels: write site=ward-3"),
        ({"where": "site=a"}, "where: must be a list, not text in quotation marks"),
        ({"where": ["a"] * 17}, "where: must be a list of length <= 16"),
        ({"where": ["a"], "agents": ["pi-01"]}, "agents and where exclude each other"),
        ({"where": ["a"], "local": 3}, "where is for a fleet; local agents have no labels"),
        ({"where": ["a"], "virtual": 3}, "where is for a fleet; virtual agents have no labels"),
    ],
)
def test_settings_of_a_run_check_it(given, says):
    with pytest.raises(SettingsError) as caught:
        parse({"task": "ecg", **given}, "flctl.toml")
    assert f"flctl.toml: {says}" in str(caught.value)
