"""The images, looked at from outside and run without any rights."""

import json
import re

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from engine import AGENT, CONTAINED, COORDINATOR, ROOT, docker, run

from flctl import __version__

pytestmark = pytest.mark.usefixtures("images")
both = pytest.mark.parametrize("image", [AGENT, COORDINATOR])


def inspect(image: str) -> dict:
    return json.loads(docker("image", "inspect", image))[0]


@both
def test_an_image_says_what_it_is(image):
    config = inspect(image)["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"].startswith("debian")
    assert config["User"] == "7700:7700"
    assert config["Entrypoint"] == ["flctl"]
    assert config["Healthcheck"]["Test"] == ["CMD", "flctl", "health"]
    assert list(config["Volumes"]) == ["/var/lib/flctl"]


@pytest.mark.parametrize(
    ("group", "targets"),
    [("default", ["agent", "coordinator"]), ("pi", ["agent-arm64", "coordinator-arm64"])],
)
def test_one_command_builds_all_that_are_asked_for(group, targets):
    """Both images of a processor have one base and one context, hence one layer with torch."""
    found = json.loads(
        docker("buildx", "bake", "--file", ROOT / "docker-bake.hcl", "--print", group)
    )
    assert sorted(found["target"]) == targets
    agent, coordinator = (found["target"][name] for name in targets)
    assert (agent["dockerfile"], coordinator["dockerfile"]) == (
        "Dockerfile.arm64",
        "Dockerfile.coordinator",
    )
    assert agent["args"] == coordinator["args"] and agent["context"] == coordinator["context"]


@both
def test_beside_an_image_lies_what_is_in_it(image):
    """CycloneDX, by its own schema: Debian's packages, Python's, and the layers that it is of."""
    name, tag = image.split(":")
    text = (ROOT / "dist" / f"{name}-{tag}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    purls = {each["purl"].partition("@")[0] for each in bill["components"]}
    assert {"pkg:deb/debian/libc6", "pkg:pypi/torch", "pkg:pypi/pyzmq", "pkg:pypi/flctl"} <= purls
    layers = [each["value"] for each in bill["metadata"]["component"]["properties"]]
    assert layers == inspect(image)["RootFS"]["Layers"]


def test_both_images_share_the_layer_with_torch():
    """Base, Python, torch: the largest part of both lies on a card once."""
    agent, coordinator = (inspect(image)["RootFS"]["Layers"] for image in (AGENT, COORDINATOR))
    assert agent[:3] == coordinator[:3]


@both
def test_an_image_has_no_secret_no_compiler_and_no_cache(image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "BEGIN CERTIFICATE" not in history
    script = (
        "for tool in cc gcc g++ make pip pip3 ld; do command -v $tool && exit 1; done;"
        "ls -A /root /run/secrets /wheels /var/cache/apt /var/lib/apt/lists /home 2>/dev/null;"
        "find / -xdev -user 7700 ! -path '/proc/*'; find /opt -name '*.whl' -o -name '*.a'"
    )
    found = docker("run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", script)
    lines = [line for line in found.splitlines() if line and not line.endswith(":")]
    assert set(lines) <= {"/var/lib/flctl", "/invite", "/web", ".bashrc", ".profile"}


@both
def test_flctl_runs_read_only_and_without_rights(image):
    """As another user than root; `/proc` says that nothing more can be had."""
    found = docker(
        "run", "--rm", *CONTAINED, "--entrypoint", "sh", image, "-c",
        "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; flctl --version;"
        "touch /opt/x 2>&1; python -c 'import torch; print(torch.__version__)'",
    )  # fmt: skip
    lines = found.splitlines()
    assert lines[0] == "7700"
    assert [line.split()[1] for line in lines[1:4]] == ["0" * 16, "0" * 16, "1"]
    assert lines[4] == f"flctl {__version__}"
    assert "Read-only file system" in lines[5]
    assert re.match(r"\d+\.\d+", lines[6])


def test_an_agent_without_its_settings_says_which_one(image=AGENT):
    done = run("docker", "run", "--rm", *CONTAINED, AGENT, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--coordinator" in done.stderr


def test_a_check_for_health_is_cheap_and_says_no(image=AGENT):
    """Below 0.3 s of processor time, a tenth of what loading the rest would cost a Pi."""
    script = (
        "import os, resource, subprocess;"
        "done = subprocess.run(['flctl', 'health'], capture_output=True, text=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(done.returncode, used.ru_utime + used.ru_stime, done.stdout)"
    )
    found = docker("run", "--rm", *CONTAINED, "--entrypoint", "python", AGENT, "-c", script)
    code, seconds, text = found.split(maxsplit=2)
    assert code == "1"
    assert float(seconds) < 0.3
    assert text == "neither an agent nor a coordinator runs on /var/lib/flctl"
