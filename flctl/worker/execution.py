"""Carries out the jobs of `flctl.worker.jobs` with `flctl.learning`; loads torch."""

import logging
import time
from pathlib import Path

import msgspec
import numpy as np
import torch

from flctl.core.personal import unmatched
from flctl.core.strategies import check_fits, strategy_of
from flctl.errors import DataError, FlctlError, OtherData, SettingsError, TaskError
from flctl.files import absent
from flctl.learning import device as devices
from flctl.learning.arguments import settled
from flctl.learning.compression import save_update
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import Examples
from flctl.learning.groups import Groups, save_first
from flctl.learning.once import Once
from flctl.learning.optimizer import check_optimizer
from flctl.learning.origin import from_environment, of_settings
from flctl.learning.private import measured_by
from flctl.learning.source import evaluation_parts, shards
from flctl.learning.state import (
    arrays_of,
    buffers_in,
    checkpoint_metadata,
    expect_finite,
    load_frozen,
    load_into,
    load_state,
)
from flctl.learning.summed import SummedMetrics
from flctl.learning.task import Task, initial_model, load_task, loaded_digest
from flctl.learning.training import train_locally
from flctl.learning.warm import begin_from, expect_own
from flctl.settings import RunSettings, agent_names, normalised, parse
from flctl.wire.messages import MOST_CLASSES, VALIDATION, DatasetInfo, Digest, Shard
from flctl.worker.fine_tuning import fine_tuned
from flctl.worker.holding import Holding, about_data, is_damaged
from flctl.worker.jobs import (
    DataSource,
    DerivedFigures,
    DeriveJob,
    Describe,
    Described,
    EvaluateJob,
    Initialise,
    Initialised,
    Personal,
    PersonaliseJob,
    Scored,
    Trained,
    TrainJob,
    for_testing,
)
from flctl.worker.pipe import nameless_file
from flctl.worker.progress import Limited, Tell

logger = logging.getLogger(__name__)
MOST_GROUPS = 2000
"""Names of groups in the first line of a journal."""


class Executor:
    """Runs one job after the other; the data of the last source stay loaded in between, as long as
    they do not change."""

    def __init__(self, once: Once | None = None) -> None:
        """`once` keeps what `initialise` reads."""
        self._holding: Holding | None = None
        self._once = once or Once()

    def describe(self, job: Describe) -> Described:
        """Try every task on every data set; a pair that does not fit is left out.

        That data are not of a task's kind is reported only where they fit no other task.
        Raises SettingsError for a device that is not there.
        """
        devices.pick(job.device)
        found: list[DatasetInfo] = []
        errors: list[str] = []
        failed: dict[str, str] = {}
        damaged: list[tuple[str, str]] = []
        for name, source in job.datasets.items():
            wrong: dict[str, FlctlError] = {}
            for ref in job.tasks:
                before = self._holding
                problem: FlctlError | None = None
                try:
                    info, problem = self._describe_one(name, ref, source, job.download)
                    found.append(info)
                except FlctlError as error:
                    # What was read stays: it stands in for a file that is being written.
                    self._holding, problem = before or self._holding, error
                    wrong[ref] = error
                    logger.debug("dataset=%s task=%s cannot be used", name, ref, exc_info=error)
                if problem is not None and is_damaged(problem, source):
                    damaged.append((name, ref))
            known = len(wrong) < len(job.tasks) or any(map(_is_of_its_kind, wrong.values()))
            for ref, why in wrong.items():
                text = f"data set '{name}' with task {ref}: {why}"
                failed.setdefault(ref, text)
                if not (known and isinstance(why, OtherData)):
                    errors.append(text)
                    logger.info("%s", text)
        nothing = "; ".join(errors) or "no task is enabled, or no data set is named"
        return Described(
            datasets=tuple(found),
            torch=torch.__version__[:200],
            cuda=torch.cuda.is_available(),
            error=None if found else nothing[:2000],
            problems=tuple(
                text[:500] for ref, text in failed.items() if ref not in {i.task for i in found}
            ),
            damaged=tuple(damaged),
        )

    def initialise(self, job: Initialise) -> tuple[Initialised, int]:
        """The complete settings of a run, and its first model in a new file descriptor.

        What can be known to fail later fails here: the optimiser, the device, the data.
        """
        first = parse(job.given, job.where)
        strategy = strategy_of(first)
        task = self._once.of(load_task(first.task, first.task_args))
        defaults = normalised(task.defaults, f"the defaults of task '{first.task}'")
        given = normalised(job.given, job.where)
        if "optimizer" in given:  # the arguments of another one are not its own
            defaults.pop("optimizer_args", None)
        here = {} if job.stored else from_environment().given
        here = {name: value for name, value in here.items() if name in task.options}
        settings = parse({**strategy.training, **defaults, **here, **given}, job.where)
        settings = measured_by(task, settings, job.where)
        read_as = of_settings(settings)
        task.will_read(read_as)
        if not job.stored:
            check_fits(strategy, settings)
        devices.pick(settings.device)
        _check_paths(settings, job.where)
        settings = settled(task, settings)
        whose = {} if job.stored else _check_data(task, settings, self._once)
        if settings.evaluate != "none" and len(task.classes) > MOST_CLASSES:
            raise TaskError(
                f"task '{settings.task}' has {len(task.classes)} classes; models can be measured "
                f"with {MOST_CLASSES} at most; choose --evaluate none"
            )
        model = initial_model(task, settings.seed)
        begun = None
        if settings.from_ is not None:
            begun = begin_from(model, Path(settings.from_), settings.from_partial)
        expect_finite(model)
        groups = Groups.of(task, model)
        learns = {spec.name for spec in groups.shared} - groups.buffers
        if not job.stored and (problem := unmatched(settings.personal_tensors, learns)):
            raise SettingsError(f"{job.where}: personal_{problem}")
        check_optimizer(settings.local_training(1), model)
        fd = nameless_file("model")
        saved = save_first(fd, settings.task, model, groups, read_as.given, settings.task_args)
        done = Initialised(
            settings=msgspec.to_builtins(settings),
            task_digest=loaded_digest(settings.task),
            measures=task.measures,
            begun=begun,
            groups=whose,
            **saved._asdict(),
        )
        return done, fd

    def train(self, job: TrainJob, model_fd: int, tell: Tell) -> tuple[Trained, int]:
        """The update, also as a blob in a new file descriptor."""
        started = time.monotonic()
        device = devices.set_up(job.device, job.threads)
        holding = self._hold(job.task, job.source, job.code)
        with about_data(job.source):
            examples = holding.training()
        where = f"the model of round {job.seeding.round}"
        groups, own, frozen = holding.parts_of(job)
        private, lost = own.begin(job.seeding.position, job.seeding.seed)
        start = groups.whole(load_state(model_fd, where), load_frozen(frozen))
        if job.limits is not None and not job.limits.accept_weights and not job.seeding.version:
            expect_own(holding.task, start, job.seeding.seed)
        start |= private
        result = train_locally(
            holding.task,
            start,
            examples,
            job.training,
            job.seeding,
            device=device,
            on_step=Limited(tell),
            limits=job.limits,
        )
        fd = nameless_file("update")
        saved = save_update(
            fd,
            arrays_of(groups.of_shared(start)),
            arrays_of(groups.of_shared(result.state)),
            job.training,
            checkpoint_metadata(job.task),
            job.seeding,
            batches=result.batches,
            residuals=Path(job.residuals),
            buffers=buffers_in(model_fd, where),
        )
        before = job.seeding.position
        own.keep(before + result.batches, result.state, before)
        done = Trained(
            blob=saved.blob,
            size=saved.size,
            claim=result.claim(saved.error, time.monotonic() - started, examples, lost),
            available=len(examples),
        )
        return done, fd

    def evaluate(self, job: EvaluateJob, model_fd: int) -> Scored:
        device = devices.set_up(job.device, job.threads)
        holding = self._hold(job.task, job.source, job.code)
        if job.side == "coordinator":
            with about_data(job.source):
                parts = holding.tests()
        else:
            parts = holding.enough(job)
        if not parts:
            return Scored(parts={})
        model = holding.task.model()
        _, own, frozen = holding.parts_of(job)
        load_into(model, model_fd, "the model to evaluate", frozen, own.file(job.position))
        return Scored(
            parts={
                name: evaluate(
                    holding.task, model, examples, batch_size=job.batch_size, device=device
                )
                for name, examples in parts.items()
            }
        )

    def derive(self, job: DeriveJob) -> DerivedFigures:
        return DerivedFigures(
            values=SummedMetrics(load_task(job.task, job.task_args)).values(job.sums)
        )

    def personalise(self, job: PersonaliseJob, model_fd: int, tell: Tell) -> Personal:
        """The agent's own model, which is stored where the job says."""
        device = devices.set_up(job.device, job.threads)
        holding = self._hold(job.task, job.source, job.code)
        return fine_tuned(job, holding, model_fd, Limited(tell), device)

    def _hold(self, ref: str, source: DataSource, code: Digest | None = None) -> Holding:
        """Raises TaskError when `code` is given, and is not what is loaded here."""
        if self._holding is None or self._holding.key != (ref, source):
            self._holding = None  # gives the memory back before more is taken
            self._holding = Holding(ref, source)
        if code not in (None, loaded_digest(ref)):
            raise TaskError(
                f"task '{ref}': its code has changed since this agent started: restart the agent"
            )
        return self._holding

    def _describe_one(
        self, name: str, ref: str, source: DataSource, download: bool
    ) -> tuple[DatasetInfo, DataError | None]:
        """Also why there is nothing to train on, if so. Raises DataError when there is nothing to
        evaluate on either."""
        holding = self._hold(ref, source)
        if source.path is None and not download and not holding.task.is_here():
            raise OtherData(
                f"has no data here; name some with --data, or download them with --task {ref}"
            )
        validation: Examples | None = None
        held_out: Examples | None = None
        problem: DataError | None = None
        digest: Digest | None = None
        try:
            training, digest = len(holding.training()), holding.training().digest
            validation = holding.measured("validation")
        except DataError as error:
            training, problem = 0, error
        try:
            held_out = holding.measured("test")
        except DataError as error:
            problem = problem or error
        if problem is not None and not training and held_out is None:
            raise problem
        info = DatasetInfo(
            name=name,
            task=ref,
            examples=training,
            validation=0 if validation is None else len(validation),
            held_out=0 if held_out is None else len(held_out),
            data=digest,
        )
        return info, None if training else problem


def _is_of_its_kind(error: FlctlError) -> bool:
    """A task's messages about data that it does read."""
    return isinstance(error, DataError) and not isinstance(error, OtherData)


def _check_paths(settings: RunSettings, where: str) -> None:
    for key, path in (("data", settings.data), ("test_data", settings.test_data)):
        if path is not None and not Path(path).exists():
            raise SettingsError(f"{where}: {key} {path}: {absent(Path(path))}")


def tests_of(task: Task, source: DataSource, once: Once) -> dict[str, Examples]:
    """`evaluation_parts` of a run, read once."""
    paths = [None if at is None else Path(at) for at in (source.path, source.beside)]
    return once.get(source, paths, lambda: evaluation_parts(task, source))


def _check_data(task: Task, settings: RunSettings, once: Once) -> dict[str, list[str]]:
    """Check that the data can be divided among local or virtual agents, and the test data read.
    Which groups each agent has, where they are divided by groups, and are few enough to tell."""
    groups: dict[str, list[str]] = {}
    agents = settings.local or settings.virtual
    if agents is not None:
        shard = Shard(
            index=0,
            of=agents,
            partition=settings.partition,
            alpha=settings.alpha,
            seed=settings.seed,
        )
        data = task.train_data(None if settings.data is None else Path(settings.data))
        dealt = shards(data, shard)
        if settings.partition == "record" and data.group is not None:
            each = zip(agent_names(agents), dealt, strict=True)
            groups = {name: np.unique(data.group[rows]).tolist() for name, rows in each}
    how, source = settings.evaluate, for_testing(settings)
    named = settings.test_data is not None or (agents is not None and settings.data is not None)
    if how == "coordinator" or (how == "auto" and named):
        parts = tests_of(task, source, once).keys() - {VALIDATION}
        if not parts and how == "coordinator":
            what = source.path or f"what comes with task '{settings.task}'"
            raise DataError(
                f"no test data in {what}; name some with --test-data, or choose --evaluate agents"
            )
    return groups if sum(map(len, groups.values())) <= MOST_GROUPS else {}
