"""What the controller sends to a Pi: the image without the layers that are there already."""

import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ansible" / "library"))

import flctl_image
import flctl_image_archive
import flctl_registry
from ansible.module_utils.flctl_identity import of_inspected, of_record
from flctl_image_archive import Archive, Unusable, in_common
from flctl_image_archive import saved as saved_by_engine

LAYERS = ["sha256:a", "sha256:b", "sha256:c"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """As `docker save` makes it: the record, the layers, and a link in place of a twin."""
    record = {"architecture": "arm64", "rootfs": {"diff_ids": LAYERS}, "config": {"Labels": {}}}
    manifest = [{"Config": "record.json", "Layers": ["a.tar", "b.tar", "c.tar"]}]
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("manifest.json", json.dumps(manifest).encode()),
            ("record.json", json.dumps(record).encode()),
            ("a.tar", b"a" * 1000),
            ("b.tar", b"b" * 1000),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("c.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "a.tar"
        tar.addfile(link)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_layers_that_are_there_are_left_out(saved: Path, tmp_path: Path, compress: bool):
    """The rest is complete by itself: a link to what was left out has become its content."""
    thin = tmp_path / "thin.tar"
    Archive(saved).write_without(2, thin, compress)
    with tarfile.open(thin) as tar:
        assert tar.getnames() == ["manifest.json", "record.json", "c.tar"]
        assert tar.extractfile("c.tar").read() == b"a" * 1000


def test_an_older_image_gives_its_room_back_and_no_other_one(tmp_path: Path, monkeypatch: Any):
    """The image for the Pis and that for the servers differ in the end of their names only."""

    def save(_save: str, _output: str, path: str, _reference: str) -> str:
        Path(path).write_text("saved")
        return ""

    monkeypatch.setattr(flctl_image_archive, "docker", save)
    old, new = {"Id": "sha256:aaaa"}, {"Id": "sha256:bbbb"}
    for reference in ("agent:0.1.0-arm64", "agent:0.1.0"):
        path = saved_by_engine(reference, old, tmp_path)
        path.with_name(path.name + "-without-0").touch()
    newest = saved_by_engine("agent:0.1.0", new, tmp_path)
    assert saved_by_engine("agent:0.1.0", new, tmp_path) == newest
    names = sorted(path.name for path in tmp_path.iterdir())
    arm = "agent-0.1.0-arm64@aaaa.tar"
    assert names == [arm, f"{arm}-without-0", "agent-0.1.0@bbbb.tar"]


def test_only_a_common_beginning_counts():
    """Docker stacks layers: one that lies upon others is another one."""
    assert in_common(LAYERS, []) == 0
    assert in_common(LAYERS, [["sha256:b", "sha256:c"], ["sha256:a", "sha256:x"], []]) == 1
    assert in_common(LAYERS, [LAYERS]) == 3


def test_what_is_no_archive_is_said_in_one_line(tmp_path: Path):
    """A picture, half a file, an empty one."""
    for content in (b"", b"not a tar", b"\x1f\x8b\x08"):
        path = tmp_path / "image.tar"
        path.write_bytes(content)
        with pytest.raises(Unusable, match="not an archive of one image") as caught:
            Archive(path)
        assert "\n" not in str(caught.value)


CONFIG = {
    "Env": ["PATH=/opt/flctl/bin"],
    "Entrypoint": ["flctl"],
    "Cmd": ["agent"],
    "User": "7700:7700",
    "Healthcheck": {"Test": ["CMD", "flctl", "health"], "Interval": 30_000_000_000},
    "Labels": {"org.opencontainers.image.version": "0.1.0", "io.flctl.source-digest": "unknown"},
}


def inspected(layers: list[str], config: dict[str, Any], image_id: str = "sha256:1") -> dict:
    return {
        "Id": image_id, "Architecture": "arm64", "Config": config, "RootFS": {"Layers": layers},
    }  # fmt: skip


def test_an_image_is_told_by_its_layers_and_its_configuration():
    """A rebuilt base makes another image though every label is the same; so does another Cmd."""
    same, _ = of_inspected(inspected(LAYERS, CONFIG))
    patched, _ = of_inspected(inspected(["sha256:patched", *LAYERS[1:]], CONFIG))
    other, _ = of_inspected(inspected(LAYERS, {**CONFIG, "Cmd": ["agent", "--verbose"]}))
    assert len({same, patched, other}) == 3


def test_an_image_is_the_same_in_every_store_and_in_an_archive():
    """Stores give it other ids, and differ in the empty values that they write down."""
    written = {**CONFIG, "WorkingDir": "/", "OnBuild": None, "ExposedPorts": {}, "Hostname": ""}
    record = {"architecture": "arm64", "rootfs": {"diff_ids": LAYERS}, "config": CONFIG}
    assert of_record(record) == of_inspected(inspected(LAYERS, written, "sha256:2"))
    assert of_record(record)[1] == "0.1.0"


def test_a_label_alone_makes_no_other_image():
    """Of the commit that it was built from, say: nothing would run differently."""
    relabelled = {**CONFIG, "Labels": {"org.opencontainers.image.revision": "f" * 40}}
    known, other = inspected(LAYERS, CONFIG), inspected(LAYERS, relabelled)
    assert of_inspected(known)[0] == of_inspected(other)[0]


def test_a_pi_takes_an_image_with_an_equal_label_for_another_one(monkeypatch: Any):
    """Two plain builds, both labelled `unknown`: the second one is loaded all the same."""
    old, new = inspected(LAYERS, CONFIG), inspected([*LAYERS[:2], "sha256:new"], CONFIG, "sha256:2")
    engine = {"flctl-agent:current": old, "flctl-agent:0.1.0": new}

    def docker(*args: str) -> str:
        if args[0] == "load":
            return "Loaded image: flctl-agent:0.1.0\n"
        if args[:2] == ("image", "tag"):
            engine[args[3]] = next(i for i in engine.values() if i["Id"] == args[2])
        elif args[:2] == ("image", "inspect"):
            if args[2] not in engine:
                raise flctl_image.Unusable("Error: No such image")
            return json.dumps([engine[args[2]]])
        return ""

    monkeypatch.setattr(flctl_image, "docker", docker)
    images = flctl_image.Images("flctl-agent", change=True)
    images.load("image.tar", of_inspected(new)[0])
    assert images.changed
    assert engine["flctl-agent:next"] is new
    again = flctl_image.Images("flctl-agent", change=True)
    again.load("image.tar", of_inspected(new)[0])
    assert not again.changed
    with pytest.raises(flctl_image.Unusable, match="is not the announced image"):
        again.load("image.tar", "0" * 64)


def test_another_image_from_a_registry_is_not_kept(monkeypatch: Any):
    """Its layers and configuration are not those that the controller named; nor is it let run."""
    reference, removed = "10.0.0.1:7701/flctl-agent@sha256:abc", []

    def docker(*args: str) -> str:
        if args[:2] == ("image", "rm"):
            removed.append(args[2])
        elif args[:2] == ("image", "inspect"):
            if args[2] != reference:
                raise flctl_image.Unusable("Error: No such image")
            return json.dumps([inspected(LAYERS, CONFIG)])
        return ""

    monkeypatch.setattr(flctl_image, "docker", docker)
    images = flctl_image.Images("flctl-agent", change=True)
    with pytest.raises(flctl_image.Unusable, match="is not the announced image"):
        images.pull(reference, "0" * 64)
    assert removed == [reference]


def test_a_registry_keeps_the_newest_few_images_of_a_name(tmp_path: Path, monkeypatch: Any):
    """Room is given back where something went, and only there."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(flctl_registry, "run", lambda *command: ran.append(command))
    registry = flctl_registry.Registry(tmp_path, "flctl-agent", "5", 7702, "push.yml")
    for age in range(1, 6):
        link = registry.tags / str(age) / "current" / "link"
        link.parent.mkdir(parents=True)
        link.write_text(f"sha256:{age:064}")
        os.utime(link, (age, age))
        registry.prune()
        assert len(ran) == (age == 5)
    assert sorted(tag.name for tag in registry.tags.iterdir()) == ["2", "3", "4", "5"]
    assert registry.manifest() == f"sha256:{5:064}"
