"""The profile `web` of compose.yaml: the page answers, asks for its token, and may do little."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar

import pytest
from engine import Project, docker, until
from real_fleet import free_port

pytestmark = pytest.mark.usefixtures("images")


class Site:
    """The page, as a browser asks for it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def ask(self, path: str, **form: str) -> tuple[int, str]:
        data = urllib.parse.urlencode(form).encode() if form else None
        headers = {"accept": "text/html", "origin": self.url}
        asked = urllib.request.Request(self.url + path, data, headers)
        try:
            with self._opener.open(asked, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@pytest.fixture(scope="module")
def project(images, project_name) -> Iterator[Project]:
    port = free_port()
    made = Project(f"{project_name}-web", FLCTL_WEB_PORT=str(port), FLCTL_SHARDS="1")
    try:
        made.compose("--profile", "web", "up", "-d", "--scale", "agent=1")
        until(lambda: Site(port).ask("/health")[0] == 200, lambda: made.compose("logs").stdout)
        yield made
    finally:
        made.down()


def port_of(project: Project) -> int:
    """Where the page is published, on loopback alone."""
    address, _, port = project.compose("port", "web", "9177").stdout.strip().rpartition(":")
    assert address == "127.0.0.1"
    return int(port)


def test_the_page_is_for_those_who_have_the_token(project: Project):
    site = Site(port_of(project))
    assert "Token" in site.ask("/")[1]
    assert site.ask("/login", token="not it")[0] == 403
    token = docker("exec", project.containers("web")[0], "cat", "/var/lib/flctl/web/token")
    assert "Fleet" in site.ask("/login", token=token)[1]
    until(lambda: 'data-state="ready"' in site.ask("/")[1], "the agent is on the page")
    assert "View only" in site.ask("/runs")[1]
    assert site.ask("/runs/start", task="ecg", rounds="1")[0] == 403


def test_its_container_may_do_little(project: Project):
    """It writes to its own volume alone, sees nothing of the coordinator's, and has limits."""
    (container,) = project.containers("web")
    found = json.loads(docker("inspect", container))[0]
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == 512 * 2**20 and host["PidsLimit"]
    assert [mount["Destination"] for mount in found["Mounts"]] == ["/var/lib/flctl"]
    assert docker("exec", container, "id", "-u") == "7700"
    modes = docker(
        "exec", "-w", "/var/lib/flctl", container, "stat", "-c", "%a %n", "page.key", "web/token"
    )
    assert modes == "600 page.key\n600 web/token"
    for folder in ("/", "/home", "/usr", "/etc"):
        refused = docker("exec", container, "sh", "-c", f"touch {folder}/x 2>&1; true")
        assert "Read-only" in refused, folder
    until(
        lambda: docker("inspect", "-f", "{{.State.Health.Status}}", container) == "healthy",
        "healthy",
    )


def test_it_comes_back_with_its_key_and_its_token(project: Project):
    """As after an update of the image: nothing is enrolled twice."""
    files = ("cat", "/var/lib/flctl/web/token", "/var/lib/flctl/page.pub")
    before = docker("exec", project.containers("web")[0], *files)
    project.compose("--profile", "web", "up", "-d", "--force-recreate", "web-key", "web")
    until(lambda: Site(port_of(project)).ask("/health")[0] == 200, "the page is back")
    assert docker("exec", project.containers("web")[0], *files) == before
    keys = json.loads(project.cli("keys", "list", "--json").stdout)["keys"]
    assert [key["role"] for key in keys if key["name"] == "page"] == ["read"]
