"""The part of a model that does not train: fetched once, kept on the card, checked."""

import os
from pathlib import Path

from agent_rig import MODEL, Rig, digest, key, train
from msgspec.structs import replace

from flctl.transport.credit import CLOSING_OFFSET
from flctl.wire.messages import (
    CHUNK_BYTES,
    Accepted,
    Chunk,
    Coded,
    Failed,
    Fetch,
    Limits,
    Model,
    Train,
)
from flctl.worker.jobs import TrainJob

FROZEN = os.urandom(CHUNK_BYTES + 100)


def order(round_id: int, shared: bytes, frozen: bytes = FROZEN) -> Train:
    model = Model(
        shared=Coded(blob=digest(shared), size=len(shared)),
        frozen=Coded(blob=digest(frozen), size=len(frozen)),
    )
    return replace(train(round_id, model=shared), model=model)


def fetched(rig: Rig, blobs: dict[str, bytes]) -> list[str]:
    """Serve what is asked for; the blobs that were."""
    asked = list[str]()
    rig.step()
    while fetches := [f for f in rig.take(Fetch) if f.offset != CLOSING_OFFSET]:
        for fetch in fetches:
            asked.append(fetch.blob)
            data = blobs[fetch.blob][fetch.offset : fetch.offset + fetch.length]
            rig.say(Chunk(blob=fetch.blob, offset=fetch.offset), data)
        rig.step()
    return sorted(set(asked))


def trains(rig: Rig, round_id: int, shared: bytes, frozen: bytes = FROZEN) -> list[str]:
    """One round; the blobs that were fetched for it."""
    rig.say(order(round_id, shared, frozen))
    asked = fetched(rig, {digest(data): data for data in (shared, frozen)})
    job = rig.worker.jobs[-1]
    assert isinstance(job, TrainJob) and job.frozen is not None
    assert rig.worker.models[-1] == shared
    assert Path(job.frozen).read_bytes() == frozen
    assert Path(job.frozen).stat().st_mode & 0o777 == 0o600
    rig.worker.train()
    rig.step()
    rig.say(Accepted(key=key(round_id, model=shared)))
    return asked


def test_it_is_fetched_once_for_all_rounds_and_starts(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.welcome()
    assert trains(rig, 1, MODEL) == sorted([digest(MODEL), digest(FROZEN)])
    later = [os.urandom(2000) for _ in range(2)]
    assert trains(rig, 2, later[0]) == [digest(later[0])]
    rig.close()
    again = Rig(tmp_path)
    again.welcome()
    assert trains(again, 3, later[1]) == [digest(later[1])]
    again.close()


def test_a_damaged_one_is_fetched_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.welcome()
    trains(rig, 1, MODEL)
    rig.close()
    path = tmp_path / "state" / "frozen" / f"{digest(FROZEN)}.safetensors"
    path.write_bytes(b"x" + FROZEN[1:])
    again = Rig(tmp_path)
    again.welcome()
    assert digest(FROZEN) in trains(again, 2, os.urandom(500))
    assert path.read_bytes() == FROZEN
    again.close()


def test_the_card_keeps_two(ready: Rig, tmp_path: Path) -> None:
    parts = [os.urandom(1000) for _ in range(4)]
    for round_id, part in enumerate(parts, start=1):
        trains(ready, round_id, os.urandom(500), part)
    kept = {path.stem for path in (tmp_path / "state" / "frozen").iterdir()}
    assert kept == {digest(part) for part in parts[-2:]}


def test_the_owners_limit_counts_both(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=Limits(max_model_mb=1))
    rig.welcome()
    rig.say(order(1, bytes(600_000), bytes(600_000)))
    rig.step()
    (failed,) = rig.take(Failed)
    assert failed.kind == "owner" and "--max-model-mb 1" in failed.message
    assert not rig.take(Fetch)
    rig.close()


def test_a_form_it_does_not_know_is_refused(ready: Rig) -> None:
    frozen = Coded(blob=digest(FROZEN), size=len(FROZEN), codec="zip")
    shared = Coded(blob=digest(MODEL), size=len(MODEL))
    ready.say(replace(train(), model=Model(shared=shared, frozen=frozen)))
    ready.step()
    (failed,) = ready.take(Failed)
    assert failed.kind == "model" and "upgrade this agent" in failed.message
