"""Every strategy, slice by slice from files, against its paper's formula in plain NumPy."""

import os
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from memory_files import file_of

from flctl.core.strategies import (
    Strategy,
    check_fits,
    combine,
    installed_strategies,
    state_specs,
    strategy_class,
    strategy_of,
    weigh,
)
from flctl.errors import SettingsError, StrategyError
from flctl.settings import parse
from flctl.wire.parameters import ParameterFile, ParameterWriter

EXAMPLES = [10, 200, 30, 40, 5]
SHAPES = {"conv": (3, 70_001), "bias": (7,), "running_var": (7,)}
RNG = np.random.default_rng(4)


def model(shift: float = 0.0) -> dict[str, np.ndarray]:
    return {
        n: RNG.standard_normal(s).astype(np.float32) + np.float32(shift) for n, s in SHAPES.items()
    }


BASE = model()
UPDATES = [
    {
        n: t + np.float32(0.1) * RNG.standard_normal(t.shape, dtype=np.float32)
        for n, t in BASE.items()
    }
    for _ in EXAMPLES
]
POISON = [*UPDATES[:4], {n: t + np.float32(1e6) for n, t in BASE.items()}]


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch):
    """Files in memory count as open ones until they are closed."""
    made, plain = [], os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name: made.append(plain(name)) or made[-1])
    yield
    for fd in made:
        os.close(fd)


def stored(tensors: dict[str, np.ndarray], where: str = "update") -> ParameterFile:
    return file_of(
        {name: ("F32", t) for name, t in tensors.items()} | {"count": ("I64", np.arange(3))}, where
    )


def settings_of(strategy: str, **args: float):
    return parse({"task": "ecg", "strategy": strategy, "strategy_args": args}, "test")


def run(strategy: Strategy, rounds=(UPDATES,), base=BASE, clip_norm: float | None = None):
    """The model after each round, starting from `base`; the state goes on as in a run."""
    state, models = None, []
    for updates in rounds:
        out = os.memfd_create("out")
        files = [stored(update) for update in updates]
        before = stored(base)
        writer = ParameterWriter(out, before.specs)
        fds = {name: os.memfd_create(name) for name in strategy.initial}
        specs = tuple(state_specs(before.specs).values())
        state_out = {name: ParameterWriter(fd, specs) for name, fd in fds.items()}
        combine(
            strategy,
            before,
            files,
            weigh(EXAMPLES[: len(updates)], "examples"),
            writer,
            clip_norm=clip_norm,
            buffers=frozenset(["running_var"]),
            state=state,
            state_out=state_out,
        )
        writer.finish()
        for kept in state_out.values():
            kept.finish()
        state = {name: ParameterFile(fd, name) for name, fd in fds.items()}
        made = ParameterFile(out, "model")
        base = {s.name: made.read(s).reshape(s.shape) for s in made.specs if s.name != "count"}
        models.append(base)
    return models


def mean(updates, name: str) -> np.ndarray:
    weights = np.array(EXAMPLES[: len(updates)]) / sum(EXAMPLES[: len(updates)])
    return sum(w * u[name].astype(np.float64) for w, u in zip(weights, updates, strict=True))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, atol=1e-6, err_msg=name)


def stack(updates, name: str) -> np.ndarray:
    return np.stack([u[name] for u in updates]).astype(np.float64)


LEARNED = [name for name in SHAPES if name != "running_var"]


def flat(update: dict[str, np.ndarray]) -> np.ndarray:
    """The weights of an update; statistics stay out of norms and distances."""
    return np.concatenate([update[name].astype(np.float64).ravel() for name in LEARNED])


def statistics(updates) -> dict[str, np.ndarray]:
    """Where norms or distances are the defence, those of all updates, place by place."""
    return {"running_var": np.median(stack(updates, "running_var"), axis=0)}


def test_the_median_is_that_of_each_number():
    (found,) = run(strategy_of(settings_of("median")))
    same(found, {n: np.median(stack(UPDATES, n), axis=0) for n in SHAPES})


@pytest.mark.parametrize(("trim", "cut"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.4, 2)])
def test_the_trimmed_mean_leaves_out_both_ends(trim: float, cut: int):
    (found,) = run(strategy_of(settings_of("trimmed-mean", trim=trim)))
    same(found, {n: np.sort(stack(UPDATES, n), axis=0)[cut : 5 - cut].mean(axis=0) for n in SHAPES})


def krum_order(updates, byzantine: int) -> np.ndarray:
    points = np.stack([flat(u) for u in updates])
    squares = np.square(points[:, None] - points[None]).sum(axis=2)
    nearest = np.sort(squares, axis=1)[:, 1 : len(updates) - byzantine - 1]
    return np.argsort(nearest.sum(axis=1), kind="stable")


@pytest.mark.parametrize("updates", [UPDATES, POISON], ids=["honest", "poisoned"])
def test_krum_takes_the_update_nearest_to_the_others(updates):
    (found,) = run(strategy_of(settings_of("krum")), [updates])
    same(found, updates[krum_order(updates, 1)[0]] | statistics(updates))


@pytest.mark.parametrize("keep", [None, 2])
def test_multi_krum_is_the_mean_of_those_it_trusts(keep: int | None):
    given = {} if keep is None else {"keep": keep}
    (found,) = run(strategy_of(settings_of("multi-krum", **given)), [POISON])
    chosen = krum_order(POISON, 1)[: keep or 4]
    assert 4 not in chosen
    means = {n: stack([POISON[i] for i in chosen], n).mean(axis=0) for n in LEARNED}
    same(found, means | statistics(POISON))


def test_krum_says_when_a_round_is_too_small_for_its_promise():
    with pytest.raises(StrategyError, match="needs 7 updates in a round, this one has 5"):
        run(strategy_of(settings_of("krum", byzantine=2)))


def test_clipping_scales_long_updates_down_and_leaves_short_ones():
    norms = [np.linalg.norm(flat(u) - flat(BASE)) for u in POISON]
    limit = (min(norms) + sorted(norms)[2]) / 2
    (found,) = run(strategy_of(settings_of("fedavg")), [POISON], clip_norm=float(limit))
    scales = [min(1.0, limit / norm) for norm in norms]
    assert sum(scale < 1 for scale in scales) >= 2
    clipped = [
        {n: (BASE[n] + s * (u[n].astype(np.float64) - BASE[n])).astype(np.float32) for n in SHAPES}
        for s, u in zip(scales, POISON, strict=True)
    ]
    same(found, {n: mean(clipped, n) for n in LEARNED} | statistics(POISON))


SECOND = [{n: t - np.float32(0.05) for n, t in u.items()} for u in UPDATES]


def adaptive(variance, lr=0.01, beta1=0.9, tau=1e-3):
    """Algorithm 2 of Reddi et al. 2021, two rounds."""
    models, x = [], {n: BASE[n].astype(np.float64) for n in SHAPES}
    m, v = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(SHAPES, tau**2)
    for updates in (UPDATES, SECOND):
        for n in SHAPES:
            delta = mean(updates, n) - x[n]
            if n == "running_var":
                x[n] = x[n] + delta
                continue
            m[n] = beta1 * m[n] + (1 - beta1) * delta
            v[n] = variance(v[n], delta**2)
            x[n] = x[n] + lr * m[n] / (np.sqrt(v[n]) + tau)
        x = {n: t.astype(np.float32).astype(np.float64) for n, t in x.items()}
        models.append(dict(x))
    return models


@pytest.mark.parametrize(
    ("name", "variance", "beta1"),
    [
        ("fedadagrad", lambda v, s: v + s, 0.0),
        ("fedadam", lambda v, s: 0.99 * v + 0.01 * s, 0.9),
        ("fedyogi", lambda v, s: v - 0.01 * s * np.sign(v - s), 0.9),
    ],
)
def test_adaptive_optimisers_of_the_server(name: str, variance, beta1: float):
    """Over two rounds: the state of the first goes into the second; buffers are averaged."""
    found = run(strategy_of(settings_of(name)), [UPDATES, SECOND])
    for got, expected in zip(found, adaptive(variance, beta1=beta1), strict=True):
        same(got, expected)


def test_fedavgm_keeps_its_momentum():
    found = run(strategy_of(settings_of("fedavgm", server_lr=0.5)), [UPDATES, SECOND])
    x, m = {n: BASE[n].astype(np.float64) for n in SHAPES}, dict.fromkeys(SHAPES, 0.0)
    for got, updates in zip(found, [UPDATES, SECOND], strict=True):
        for n in SHAPES:
            delta = mean(updates, n) - x[n]
            m[n] = 0.9 * m[n] + delta
            x[n] = x[n] + (delta if n == "running_var" else 0.5 * m[n])
        same(got, x)


def test_a_server_that_steps_too_far_says_so():
    """Rather than to leave a model that looks damaged."""
    with pytest.raises(StrategyError, match=r"not finite in tensor .*lower server_lr"):
        run(strategy_of(settings_of("fedadam", server_lr=1e300)))


def test_krum_is_refused_where_its_agents_are_too_few():
    """As soon as that is known: before anybody trains."""
    for fleet in ({"virtual": 4}, {"local": 10, "fraction": 0.3}, {"agents": ["pi-01", "pi-02"]}):
        settings = parse({"task": "ecg", "strategy": "krum", **fleet}, "test")
        with pytest.raises(SettingsError, match="needs 5 agents in a round"):
            check_fits(strategy_of(settings), settings)
    settings = parse({"task": "ecg", "strategy": "krum", "virtual": 5}, "test")
    check_fits(strategy_of(settings), settings)


@pytest.mark.parametrize(
    ("strategy", "args", "message"),
    [
        ("fedavg", {"trim": 0.1}, "fedavg: unknown key 'trim'; it takes none"),
        (
            "trimmed-mean",
            {"trim": 0.5},
            "trimmed-mean: trim: must be a number < 0.5; for instance 0.2; it takes trim",
        ),
        ("trimmed-mean", {"trm": 0.1}, "trimmed-mean: unknown key 'trm'; did you mean 'trim'"),
        ("krum", {"byzantine": 1.5}, "krum: byzantine: must be a whole number"),
        ("krum", {"byzantine": -1}, "krum: byzantine: must be a whole number >= 0"),
        ("multi-krum", {"keep": 0}, "multi-krum: keep: must be a whole number >= 1"),
        ("fedadam", {"beta2": 1.0}, "fedadam: beta2: must be a number < 1"),
        ("fedadam", {"tau": 0.0}, "fedadam: tau: must be a number > 0"),
        ("fedavgm", {"server_lr": -1.0}, "fedavgm: server_lr: must be a number > 0"),
    ],
)
def test_wrong_arguments_are_named(strategy: str, args: dict[str, float], message: str):
    with pytest.raises(SettingsError, match=f"(?i){message}"):
        strategy_of(settings_of(strategy, **args))


def test_an_unknown_strategy_gets_the_nearest_name():
    with pytest.raises(SettingsError, match="unknown strategy 'fedavgg'; did you mean 'fedavg'"):
        strategy_of(settings_of("fedavgg"))
    with pytest.raises(SettingsError, match="unknown strategy 'xyz'; installed: fedadagrad, "):
        strategy_of(settings_of("xyz"))


def test_the_documentation_lists_every_strategy_with_its_arguments():
    text = (Path(__file__).parents[2] / "docs/explanation/strategies.md").read_text()
    for name in installed_strategies():
        kind = strategy_class(name)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert kind.summary in row, name
        assert kind.paper in row, name
        assert all(f"`{argument}`" in row for argument in kind.__struct_fields__), name


@pytest.mark.parametrize("strategy", ["fedavg", "median", "trimmed-mean", "krum", "fedadam"])
def test_memory_does_not_grow_with_the_model_or_the_fleet(strategy: str):
    """Twenty updates of 8 MB in less than 16 MB, whatever the strategy."""
    tensors = {"w": np.full(1_900_000, 0.5, np.float32)}
    files = [stored(tensors) for _ in range(20)]
    chosen = strategy_of(settings_of(strategy))
    specs = tuple(state_specs(files[0].specs).values())
    state_out = {name: ParameterWriter(os.memfd_create(name), specs) for name in chosen.initial}
    writer = ParameterWriter(os.memfd_create("out"), files[0].specs)
    tracemalloc.start()
    try:
        combine(chosen, files[0], files, weigh([1] * 20, "examples"), writer, state_out=state_out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6, f"{peak / 1e6:.1f} MB"


def test_equal_models_of_different_types_keep_their_state_apart():
    """A state file is in the order of the model's tensors, whatever types they have."""
    tensors = {
        "a": ("F32", np.ones(3, np.float32)),
        "b": ("F64", np.ones(2)),
        "c": ("F16", np.ones(4, np.float16)),
    }
    file = file_of(tensors)
    specs = state_specs(file.specs)
    names = [spec.name for spec in specs.values()]
    assert all(one < two for one, two in pairwise(names))
    assert [spec.name for spec in specs] == ["b", "a", "c"]


def _raises(parts, weights):
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_raises, r"combine: ValueError: two\\nlines \(test_server_strategies.py, line \d+\)"),
        (lambda parts, weights: sys.exit(3), "combine: SystemExit: 3"),
        (lambda parts, weights: None, "combine: it returns a NoneType, not an array of 4 numbers"),
        (lambda parts, weights: "hello", "combine: it returns a str"),
        (lambda parts, weights: np.zeros(3), r"combine: it returns float64 of shape \(3,\)"),
        (lambda parts, weights: np.zeros(4, bool), "combine: it returns bool of shape"),
        (lambda parts, weights: next(parts) * np.nan, "the new model is not finite in tensor w"),
    ],
)
def test_what_goes_wrong_in_a_strategy_names_it(answer, says: str):
    """Also in one of another package: a run pauses with that line."""

    class Broken(Strategy, frozen=True):
        def combine(self, parts, weights):
            return answer(parts, weights)

    file = stored({"w": np.ones(4, np.float32)})
    writer = ParameterWriter(os.memfd_create("out"), file.specs)
    with pytest.raises(StrategyError, match=f"^strategy Broken.*{says}"):
        combine(Broken(), file, [file, file], weigh([1, 1], "examples"), writer)


SMALL = {"w": np.ones(4, np.float32)}


def _of_numpy(state):
    np.stack([state["v"], np.zeros(7)])


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (lambda state: state["w"], r"KeyError: 'w' \(test_server_strategies.py, line \d+\)"),
        (_of_numpy, r"ValueError: .* \(test_server_strategies.py, line \d+\)"),
        (lambda state: state.update(w=state["v"]), "its state and initial differ in w"),
        (lambda state: state.pop("v"), "its state and initial differ in v"),
        (lambda state: state.update(v=0), r"state\['v'\] is a int, not an array of 4 numbers"),
        (lambda state: state.update(v=np.ones(3)), r"state\['v'\] is float64 of shape \(3,\)"),
    ],
)
def test_what_goes_wrong_with_a_state_names_it(keep, says: str):
    class Broken(Strategy, frozen=True):
        steps = True

        @property
        def initial(self):
            return {"v": 0.0}

        def step(self, before, change, state):
            keep(state)
            return before + change

    with pytest.raises(StrategyError, match=f"^strategy Broken, step: {says}"):
        run(Broken(), [[SMALL, SMALL]], SMALL)


def test_of_an_error_in_a_library_the_line_of_the_strategy_is_named():
    class Broken(Strategy, frozen=True):
        def combine(self, parts, weights):
            return np.stack([next(parts), np.zeros(7)])

    line = Broken.combine.__code__.co_firstlineno + 1
    with pytest.raises(StrategyError, match=rf"\(test_server_strategies.py, line {line}\)$"):
        run(Broken(), [[SMALL, SMALL]], SMALL)


def installed_as(folder: Path, name: str, code: str) -> None:
    """A package of this name, with a strategy of this name in it."""
    (folder / f"{name}_strategy.py").write_text(
        f"from flctl.core.strategies import Strategy\n\n\n{code}\n"
    )
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    kind = name.title()
    (about / "entry_points.txt").write_text(
        f"[flctl.strategies]\n{name} = {name}_strategy:{kind}\n"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    installed_strategies.cache_clear()
    for module in [each for each in sys.modules if each.endswith("_strategy")]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("initial = {'v': 0.0}", "has initial, but not steps = True"),
        ("def step(self, before, change, state): ...", "has step, but not steps = True"),
    ],
)
def test_a_strategy_whose_step_is_not_taken_is_refused(site: Path, body: str, says: str):
    installed_as(site, "idle", f"class Idle(Strategy, frozen=True):\n    {body}")
    with pytest.raises(SettingsError, match=f"^strategy 'idle' {says}"):
        strategy_of(settings_of("idle"))


def test_a_strategy_that_is_installed_while_the_process_runs_is_found(site: Path):
    """A coordinator need not be started again for it."""
    with pytest.raises(SettingsError, match="unknown strategy 'newer'"):
        strategy_class("newer")
    installed_as(site, "newer", "class Newer(Strategy): ...")
    assert strategy_class("newer").__name__ == "Newer"


def test_two_packages_with_a_strategy_of_one_name_are_both_refused(site: Path):
    installed_as(site, "median", "class Median(Strategy): ...")
    with pytest.raises(
        SettingsError,
        match=r"^strategy 'median' is brought along by flctl and median: uninstall one of them$",
    ):
        strategy_class("median")
    (site / "median-1.0.dist-info" / "entry_points.txt").unlink()
    assert strategy_class("median").summary == "the median of each number"  # without a restart
