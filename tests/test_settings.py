"""What a flag or a TOML key may say."""

import math
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flctl.errors import SettingsError
from flctl.run_toml import from_toml, read_toml, to_toml
from flctl.settings import (
    KEYS,
    LocalTraining,
    RunSettings,
    agent_names,
    parse,
)


def refusal(**given) -> str:
    with pytest.raises(SettingsError) as caught:
        parse({"task": "ecg", **given}, "run.toml")
    text = str(caught.value)
    assert text.startswith("run.toml: ") and "\n" not in text
    assert caught.value.exit_code == 2
    return text.removeprefix("run.toml: ")


# Names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("round", "rounds"),
        ("batchsize", "batch_size"),
        ("batch-sze", "batch_size"),
        ("optimiser", "optimizer"),
        ("federate_after", "federate_after_n_batches"),
        ("dead_line", "deadline"),
        ("learning_rate_decay", "lr_decay"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(wrong, right):
    """It is an error, never passed over."""
    assert refusal(**{wrong: 1}) == f"unknown key '{wrong}'; did you mean '{right}'?"


def test_a_key_like_no_other_is_only_unknown():
    """No silly suggestion."""
    assert refusal(zzzz=1) == "unknown key 'zzzz'"


def test_keys_are_understood_as_they_are_written_as_flags():
    """kebab-case, and without the unit that the help text says."""
    run = parse({"task": "ecg", "batch-size": 8, "deadline": 30, "wait": 5}, "here")
    assert (run.batch_size, run.deadline_s, run.wait_s) == (8, 30.0, 5.0)


@pytest.mark.parametrize("twice", [("batch-size", "batch_size"), ("deadline", "deadline_s")])
def test_a_key_in_two_spellings_is_given_twice(twice):
    """Neither of them wins in silence."""
    assert "is given twice" in refusal(**dict.fromkeys(twice, 5))


def test_a_run_without_a_task_says_how_to_name_one():
    """The one key that has no default."""
    with pytest.raises(SettingsError, match="no task is named; say --task ecg"):
        parse({"rounds": 3}, "the command line")


# Values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": -0.1}, "lr: must be a number > 0"),
        ({"lr": 0}, "lr: must be a number > 0"),
        ({"lr": math.nan}, "lr: must be"),
        ({"lr": math.inf}, "lr must be a finite number"),
        ({"lr": "fast"}, "lr: must be a number, not text in quotation marks"),
        ({"rounds": 0}, "rounds: must be a whole number >= 1"),
        ({"rounds": 1.5}, "rounds: must be a whole number, without a decimal point"),
        ({"rounds": True}, "rounds: must be a whole number, not true or false"),
        ({"rounds": 10**12}, "rounds: must be a whole number <= 1000000000"),
        ({"rounds": None}, "rounds: must be a whole number, not nothing"),
        ({"seed": -1}, "seed: must be a whole number >= 0"),
        ({"seed": 2**63}, "seed: must be a whole number"),
        ({"local": 0}, "local: must be a whole number >= 1"),
        ({"virtual": -3}, "virtual: must be a whole number >= 1"),
        ({"local": 2, "virtual": 2}, "local and virtual exclude each other"),
        ({"epochs": 0}, "epochs: must be a whole number >= 1"),
        ({"federate_after_n_batches": 0}, "federate_after_n_batches: must be"),
        ({"fraction": 0}, "fraction: must be a number > 0"),
        ({"fraction": 1.1}, "fraction: must be a number <= 1"),
        ({"fraction": math.nan}, "fraction: must be"),
        ({"max_share": math.nan}, "max_share: must be"),
        ({"compression": "zip"}, "it is one of none, fp16, int8, topk"),
        ({"topk_share": 0.2}, "topk_share: must be a number <= 0.15"),
        ({"topk_share": 0}, "topk_share: must be a number > 0"),
        ({"quorum": 0}, "quorum: must be a number > 0"),
        ({"quorum": -1}, "quorum: must be a number > 0"),
        ({"quorum": 1.5}, "quorum = 1.5 is neither a share (up to 1) nor a whole number"),
        ({"quorum": math.nan}, "quorum: must be"),
        ({"quorum": math.inf}, "quorum must be a finite number"),
        ({"quorum": 4, "local": 3}, "a quorum of 4 cannot be met by a fleet of 3"),
        ({"quorum": 4, "virtual": 3}, "a quorum of 4 cannot be met by a fleet of 3"),
        ({"quorum": 3, "agents": ["a", "b"]}, "a quorum of 3 cannot be met by a fleet of 2"),
        (
            {"quorum": 3, "local": 4, "fraction": 0.5},
            "a quorum of 3 cannot be met by a fleet of 4, of which a round invites 2",
        ),
        ({"deadline": math.inf}, "deadline must be a finite number"),
        ({"deadline": 0}, "deadline: must be a number > 0"),
        ({"wait": -1}, "wait: must be a number >= 0"),
        ({"alpha": math.inf}, "alpha must be a finite number"),
        ({"lr_decay": 1.5}, "lr_decay: must be a number <= 1"),
        ({"keep_rounds": -1}, "keep_rounds: must be a whole number >= 0"),
        ({"strategy": "Fed SGD"}, "strategy: not a name"),
        ({"partition": "random"}, "partition: 'random' is unknown; it is one of iid, label"),
        ({"threads": 0}, "threads: must be a whole number >= 1"),
        ({"threads": 1_000_000}, "threads: must be a whole number <= 1024"),
        ({"agents": ["a", "b"], "local": 2}, "agents cannot be chosen together with local = 2"),
        ({"agents": ["pi-01"], "virtual": 2}, "cannot be chosen together with virtual = 2"),
        ({"agents": ["a"], "virtual": 10**9}, "cannot be chosen together with virtual"),
        ({"dataset": "other", "local": 2}, "dataset is for agents of their own"),
        ({"dataset": "other", "virtual": 2}, "dataset is for agents of their own"),
        ({"agents": "pi-01"}, "agents: must be a list, not text in quotation marks"),
        ({"agents": ["Pi 1"]}, "agents[0]: not a name"),
        ({"agents": ["pi-01\n"]}, "agents[0]: not a name"),
        ({"agents": ["a", "a"]}, "an agent is named twice"),
        ({"optimizer_args": {"momentum": math.nan}}, "optimizer_args: momentum must be a finite"),
        ({"optimizer_args": {"betas": [0.9, math.inf]}}, "optimizer_args: betas must be a finite"),
        ({"optimizer_args": {"x": 10**30}}, "optimizer_args"),
        ({"optimizer_args": {"x": {}}}, "optimizer_args[...]: must be"),
        ({"data": "caf\udce9"}, "data is not UTF-8 text"),
        ({"task": 3}, "task: must be text in quotation marks, not a whole number"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_key(given, says):
    """With what was expected."""
    assert says in refusal(**given)


def test_whole_numbers_are_good_enough_for_fractions():
    """`deadline = 30` in TOML is an integer."""
    run = parse({"task": "ecg", "deadline_s": 30, "lr": 1, "quorum": 1}, "here")
    assert (run.deadline_s, run.lr, run.quorum) == (30.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("quorum", "invited", "need"),
    [
        (0.8, 1, 1),
        (0.8, 3, 3),
        (0.8, 5, 4),
        (0.8, 10, 8),
        (0.1, 3, 1),
        (0.07, 100, 7),
        (0.001, 500, 1),
        (1.0, 7, 7),
        (1, 1, 1),
        (2, 10, 2),
        (3, 2, 3),
        (1 / 3, 3, 1),
        (2 / 3, 3, 2),
    ],
)
def test_the_quorum_is_a_share_or_a_number(quorum, invited, need):
    """Up to 1 a share, rounded up without being misled by 0.07 × 100 = 7.000000000000001."""
    assert parse({"task": "ecg", "quorum": quorum}, "here").quorum_of(invited) == need


@pytest.mark.parametrize(
    ("invited", "need"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 5), (10, 8), (16, 13), (300, 240)],
)
def test_the_default_quorum_lets_a_fleet_of_three_lose_one(invited, need):
    """All but one or 80 %, whichever is fewer, and two where there are two."""
    assert parse({"task": "ecg"}, "here").quorum_of(invited) == need


@pytest.mark.parametrize("need", [1, 2, 3, 7])
@pytest.mark.parametrize("hundredths", [1, 10, 30, 33, 50, 70, 99, 100])
def test_the_fleet_for_a_quorum_is_the_smallest_that_is_large_enough(need, hundredths):
    """Of one agent fewer, a round would not invite as many as the quorum asks for."""
    run = RunSettings(task="ecg", fraction=hundredths / 100)
    exact = [max(1, math.ceil(Fraction(hundredths, 100) * n)) for n in range(1, 701)]
    assert [run.invited_of(n) for n in range(1, 701)] == exact
    assert run.fleet_for(need) == next(n for n, drawn in enumerate(exact, 1) if drawn >= need)


def test_the_learning_rate_decays_down_to_its_floor():
    """As the guide's: times 0.98 after each round, never under a share of the first one."""
    run = RunSettings(task="mnist", lr=0.1, lr_decay=0.5, lr_floor=0.2)
    assert [run.lr_at(r) for r in (1, 2, 3, 4, 1000)] == pytest.approx(
        [0.1, 0.05, 0.025, 0.02, 0.02]
    )
    assert RunSettings(task="mnist", lr=0.1).lr_at(10**9) == 0.1
    assert run.local_training(2) == LocalTraining(lr=0.05)


# TOML ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('task = "ecg"\n\nround = 3\n', "line 3: unknown key 'round'; did you mean 'rounds'?"),
        ('task = "ecg"\n[optimiser_args]\nx = 1\n', "line 2: unknown key 'optimiser_args'"),
        ('task = "ecg"\n"rnds" = 3\n', "line 2: unknown key 'rnds'"),
        ('task = "ecg"\nrounds = = 3\n', "not TOML: Invalid value (at line 2, column 10)"),
        ('task = "ecg"\nrounds = 3\nrounds = 4\n', "line 3"),
        ("x = " + "[" * 100_000, "not TOML"),
    ],
)
def test_a_mistake_in_a_file_has_its_line(tmp_path, text, says):
    """File, line, key and the nearest known one."""
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(str(path)) and says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_toml, from_toml])
def test_a_file_that_cannot_be_read_is_named(tmp_path, reader):
    """Not there, a folder, no text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for name in ("absent", ".", "binary"):
        with pytest.raises(SettingsError, match=str(tmp_path)) as caught:
            reader(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_keys_of_a_file_are_in_snake_case(tmp_path):
    """A file may be written with the names of the flags."""
    path = tmp_path / "my.toml"
    path.write_text('task = "ecg"\nbatch-size = 8\n[optimizer-args]\nmomentum = 0.9\n')
    given = read_toml(path)
    assert given == {"task": "ecg", "batch_size": 8, "optimizer_args": {"momentum": 0.9}}
    assert parse(given, str(path)).optimizer_args == {"momentum": 0.9}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    """Some editors write one."""
    path = tmp_path / "my.toml"
    path.write_bytes(b'\xef\xbb\xbftask = "ecg"\n')
    assert read_toml(path) == {"task": "ecg"}


def test_keys_beside_the_settings_are_known_where_they_are_allowed(tmp_path):
    """And proposed to whoever misspells them."""
    path = tmp_path / "my.toml"
    path.write_text('save-model = "x"\n')
    assert read_toml(path, ["save_model"]) == {"save_model": "x"}
    with pytest.raises(SettingsError, match=r"unknown key 'save-model'$"):
        read_toml(path)
    path.write_text('save-mdel = "x"\n')
    with pytest.raises(SettingsError, match="did you mean 'save_model'"):
        read_toml(path, ["save_model"])


def test_the_agents_of_a_local_run_may_be_named_as_they_are_called():
    """So its run.toml says who took part, and can be read back."""
    run = parse({"task": "ecg", "local": 2, "agents": ["pi-01", "pi-02"]}, "here")
    assert run.agents == agent_names(2)


text = st.text(max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
share = st.floats(min_value=0, max_value=1, exclude_min=True)
count = st.integers(1, 10**9)
arguments = st.dictionaries(
    text,
    finite
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.booleans()
    | text
    | st.lists(finite, max_size=3),
    max_size=4,
)
runs = st.builds(
    RunSettings,
    task=text,
    rounds=count,
    seed=st.integers(0, 2**63 - 1),
    batch_size=count,
    federate_after_n_batches=st.none() | count,
    shuffle=st.booleans(),
    optimizer=text,
    lr=positive,
    optimizer_args=arguments,
    max_share=share,
    fraction=share,
    quorum=share,
    deadline_s=positive,
    agents=st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,9}\Z"), unique=True).map(tuple),
    data=st.none() | text,
    dataset=text,
    alpha=positive,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_frozen_settings_are_read_back_as_they_were(tmp_path_factory, run):
    """Every text, number and argument of an optimiser, to the last bit."""
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_bytes(to_toml(run).encode())
    assert from_toml(path) == run


def test_frozen_settings_are_complete_and_readable(tmp_path):
    """One key a line, the schema first; what has no value is left out."""
    run = RunSettings(
        task="ecg",
        agents=("pi-01",),
        optimizer_args={"momentum": 0.9},
        strategy_args={"trim": 0.1},
        task_args={"classes": ["cat", "dog"], "window": 64},
    )
    lines = to_toml(run).splitlines()
    assert lines[0] == "schema = 2"
    assert 'task = "ecg"' in lines and 'agents = ["pi-01"]' in lines and "lr = 0.01" in lines
    assert lines[-2:] == ["[strategy_args]", '"trim" = 0.1']
    assert '"classes" = ["cat", "dog"]' in lines and '"window" = 64' in lines
    absent = {name for name in KEYS if getattr(run, name) is None}
    named = {line.split(" = ")[0].strip("[]") for line in lines[1:] if line[:1] not in ('"', "")}
    assert named == set(KEYS) - absent


def test_settings_of_another_schema_are_refused(tmp_path):
    """An older flctl does not guess what a newer one meant."""
    path = tmp_path / "run.toml"
    path.write_text(to_toml(RunSettings(task="ecg")).replace("schema = 2", "schema = 3"))
    for read in (from_toml, read_toml):
        with pytest.raises(SettingsError, match="schema 3, this version reads 1 and 2"):
            read(path)


def test_frozen_settings_can_begin_another_run(tmp_path):
    """`flctl train RUN/run.toml`: the schema is no setting."""
    run = RunSettings(task="ecg", local=2, agents=agent_names(2), optimizer_args={"momentum": 0.9})
    path = tmp_path / "run.toml"
    path.write_text(to_toml(run))
    assert parse(read_toml(path), str(path)) == run


@pytest.mark.parametrize("group", ["frozen", "private"])
def test_tensors_that_are_not_shared_are_refused_so_far(group):
    """The settings have room for three groups of tensors; only one is done yet."""
    with pytest.raises(SettingsError, match=f"^here: {group}: every tensor .* is shared"):
        parse({"task": "ecg", group: ["head.weight"]}, "here")
