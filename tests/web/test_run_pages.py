"""Pages of runs, agents and keys, and /metrics, over a real coordinator and played agents."""

import csv
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from page_rig import NAMES, Page, PlayedFleet
from prometheus_client.parser import text_string_to_metric_families
from real_fleet import flctl, wait_for

from flctl.core.alerts import KINDS
from flctl.core.events import HELD, UpdateRejected
from flctl.core.stream import Published
from flctl.fleet.answers import InProgress
from flctl.web import rendering, run_pages, run_view, words
from flctl.web.picture import MISHAPS, RunPicture
from flctl.web.serving import WebOptions, site_of
from flctl.web.verdicts import Worth, verdict

GIVEN = {"rounds": "2", "task": "ecg", "more": "wait_s = 20\nkeep_rounds = 0\nquorum = 3"}


def begin(fleet: PlayedFleet, page: Page, **more: Any) -> str:
    """A run that the page's form begins; its name."""
    given = GIVEN | more
    given["more"] += f'\ntest_data = "{fleet.data}"'
    answer = page.client.post("/runs/start", data=given)
    assert answer.status_code == 200, answer.text
    found = re.search(r'href="/runs/([^"]+)"', answer.text)
    assert found is not None
    return found[1]


def ended(page: Page, run: str) -> str:
    return page.until(lambda t: "✓</span> finished" in t, f"/runs/{run}", 200)


@pytest.fixture(scope="module")
def run(fleet: PlayedFleet, page: Page) -> str:
    """A run from the form to its end."""
    page.until(lambda t: t.count('data-state="ready"') >= 3)
    name = begin(fleet, page)
    ended(page, name)
    return name


def test_a_run_has_figures_a_confusion_matrix_and_its_settings(page: Page, run: str):
    text = page.client.get(f"/runs/{run}").text
    assert "2 of 2 rounds" in text and "round: " in text and "Confusion matrix" in text
    heads = "".join(f'<th scope="col" class="n">{name}</th>' for name in "NSVFQ")
    assert heads in text and '<tr><th scope="row">N</th>' in text
    assert "macro-F1" in text and "keep_rounds" in text and "of updates received" in text
    charts = page.client.get(f"/runs/{run}/curves").json()["charts"]
    titles = {chart["title"] for chart in charts}
    assert {"loss", "accuracy", "macro-F1", "seconds of a round"} <= titles
    assert all(chart["x"] == [1, 2] for chart in charts)
    assert all(len(line["values"]) == 2 for chart in charts for line in chart["series"])


def test_runs_are_compared(fleet: PlayedFleet, page: Page, run: str):
    """Settings that differ, both in each chart, and which is better."""
    other = begin(fleet, page, rounds="3")
    ended(page, other)
    text = page.client.get("/runs").text
    assert f"choose-{run}" in text and f"choose-{other}" in text
    text = page.client.get("/runs/compare", params={"run": [run, other]}).text
    assert re.search(r">rounds</th><td[^>]*>2</td><td[^>]*>3</td>", text)
    assert re.search(rf"Best: ({run}|{other}), by the", text)
    charts = page.client.get("/runs/compare/curves", params={"run": [run, other]}).json()["charts"]
    assert {line["label"] for line in charts[0]["series"]} == {run, other}
    none = page.client.get("/runs/compare", follow_redirects=True)
    assert none.status_code == 200 and str(none.url).endswith("/runs?choose=")
    assert "Choose runs to compare, up to 6" in none.text and f"choose-{run}" in none.text
    assert page.client.get("/runs/compare?run=no-such-run").status_code == 404
    assert "side by side" in text and "Settings that differ" in text
    assert "What it is judged by" in text and "★</span> best" in text
    assert re.search(r">Measured on</th><td[^>]*>(\w+) data</td><td[^>]*>\1 data</td>", text)
    assert "the mean of the F1 scores" in text
    assert any(re.fullmatch(r"macro-F1 on \w+ data", chart["title"]) for chart in charts)
    assert ">Measured on</th>" in page.client.get("/runs").text


def test_files_are_taken_away(page: Page, run: str):
    """CSV of the rounds and the agents, and the checkpoint, whole."""
    for kind, lines in (("rounds", 2), ("agents", 6)):
        answer = page.client.get(f"/runs/{run}/{kind}.csv")
        assert "attachment" in answer.headers["content-disposition"]
        assert len(list(csv.DictReader(io.StringIO(answer.text)))) == lines
    answer = page.client.get(f"/runs/{run}/checkpoint/last")
    assert answer.status_code == 200 and len(answer.content) > 10_000
    assert f"{run}-last.safetensors" in answer.headers["content-disposition"]
    assert page.client.get(f"/runs/{run}/checkpoint/99").status_code == 400
    assert page.client.get("/runs/../../etc/checkpoint/best").status_code == 404


def test_downloads_at_a_time_are_bounded(page: Page, run: str, monkeypatch):
    """One more gets the answer to come back later, and all else is served meanwhile."""
    held, fetch, begun = threading.Event(), run_pages._fetch, list[Any]()

    def slowly(*given: Any) -> str:
        begun.append(given)
        held.wait(60)
        return fetch(*given)

    monkeypatch.setattr("flctl.web.run_pages._fetch", slowly)
    path = f"/runs/{run}/checkpoint/last"
    with ThreadPoolExecutor(run_pages.DOWNLOADS) as pool:
        asked = [pool.submit(page.client.get, path) for _ in range(run_pages.DOWNLOADS)]
        wait_for(lambda: len(begun) == run_pages.DOWNLOADS, "all are taken")
        assert page.client.get(path).status_code == 503
        assert page.client.get("/runs").status_code == 200
        held.set()
        assert {each.result().status_code for each in asked} == {200}
    assert page.client.get(path).status_code == 200


def test_a_slow_agent_is_named_and_the_run_is_stopped_and_resumed(fleet: PlayedFleet, page: Page):
    """The page says for whom the round waits and until when, with its progress."""
    fleet.play("pi-02", batch_s=60.0)  # until it is made short below
    name = begin(fleet, page, rounds="2")
    text = page.until(
        lambda t: re.search(r"Waiting for .*pi-02", t) and "▶</span> training" in t,
        f"/runs/{name}/now",
    )
    assert re.search(r"\d of 3 agents (is|are) done; the quorum is 3", text)
    assert "else this attempt fails and is made again" in text and "round 1 is open" in text
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert '<progress max="10"' in text
    assert "Stop the run" in page.client.get(f"/runs/{name}").text
    assert page.client.get(f"/runs/{name}/actions?is=running-open-True").status_code == 204
    answer = page.client.post(f"/runs/{name}/stop")
    assert answer.status_code == 200 and "can be resumed" in answer.text
    assert "Resume the run" in page.client.get(f"/runs/{name}").text
    assert page.client.post(f"/runs/{name}/stop").status_code == 200  # a second click
    for _ in range(2):
        assert page.client.post(f"/runs/{name}/resume").status_code == 200
        assert "</span> running</strong>" in page.client.get(f"/runs/{name}/now").text
    fleet.play("pi-02", batch_s=0.02)
    ended(page, name)


def test_a_run_is_paused_after_its_round_and_resumed(fleet: PlayedFleet, page: Page):
    """The page, the status, the command line and the metrics say so; then it goes on."""
    fleet.play("pi-02", batch_s=60.0)  # the round is open until it is made short below
    name = begin(fleet, page, rounds="3")
    page.until(lambda t: "Pause after this round" in t, f"/runs/{name}")
    page.until(lambda t: "round 1 is open" in t, f"/runs/{name}/now")
    answer = page.client.post(f"/runs/{name}/pause")
    assert answer.status_code == 200 and f"Run {name} pauses after round 1" in answer.text
    now = page.client.get(f"/runs/{name}/now").text  # as soon as the answer is there
    assert "it pauses after this round" in now and " left, until" not in now
    fleet_page = page.client.get("/").text
    assert re.search(
        r"round 1 is open; it pauses after this round.*until \S+ \S+ UTC", fleet_page, re.S
    )
    assert "pauses after this round" in flctl("status", "--state", fleet.state).stdout
    assert "Do not pause" in page.client.get(f"/runs/{name}").text
    fleet.play("pi-02", batch_s=0.02)
    text = page.until(lambda t: "</span> paused</strong>, 1 of 3" in t, f"/runs/{name}/now")
    assert '<span class="said">by an operator</span>' in text
    assert "paused by an operator" in flctl("status", "--state", fleet.state).stdout
    assert samples(page.client.get("/metrics").text)["flctl_run_paused"] == [({}, 1.0)]
    assert "Pause after this round" not in page.client.get(f"/runs/{name}").text
    again = flctl("runs", "pause", name, "--state", fleet.state)
    assert again.returncode == 0 and f"run {name} is paused; resume with: " in again.stdout
    assert page.client.post(f"/runs/{name}/resume").status_code == 200
    ended(page, name)
    refused = flctl("runs", "pause", name, "--state", fleet.state)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_what_a_failing_agent_says_is_text(fleet: PlayedFleet, page: Page):
    """On the run's page and on its own, with what to see in a log made visible."""
    fleet.play("pi-02", batch_s=60.0)  # what it said is shown until the run is over
    fleet.play("pi-03", fails="<img src=x onerror=alert(1)>\x1b[2J\u202e")
    name = begin(fleet, page, more="quorum = 2\nwait_s = 20")
    text = page.until(lambda t: "onerror" in t, f"/runs/{name}/now")
    for path in (f"/runs/{name}", f"/runs/{name}/figures", "/agents/pi-03", "/"):
        text += page.client.get(path).text
    assert "<img src=x" not in text and "\x1b" not in text and "\u202e" not in text
    assert "&lt;img src=x" in text
    fleet.play("pi-02", batch_s=0.02)
    fleet.play("pi-03", fails="")
    ended(page, name)


def test_wrong_settings_are_said_in_words(fleet: PlayedFleet, page: Page):
    for given, said in (
        ({"more": "lr = "}, "not TOML"),
        ({"more": "leraning_rate = 1"}, "leraning_rate"),
        ({"rounds": "-1"}, "rounds"),
        ({"more": "lr = 'x'"}, "lr: must be a number"),
        ({"more": "lr = 0.0"}, "lr: must be a number &gt; 0.0"),
        ({"task": "<b>x"}, "&lt;b&gt;x"),
    ):
        answer = page.client.post("/runs/start", data=GIVEN | given, headers={"hx-request": "true"})
        assert answer.status_code == 400 and said in answer.text and "<b>" not in answer.text


def test_an_agent_has_a_page(page: Page, run: str):
    text = page.client.get("/agents/pi-01").text
    assert "Cordon" in text and "51 °C" in text and "100 examples" in text
    assert "of updates sent" in text
    assert "charts" in page.client.get("/agents/pi-01/history").json()
    assert "training" not in text.partition("In run")[2].partition("<h2>")[0]
    answer = page.client.get("/agents/nobody")
    assert answer.status_code == 404 and 'href="/security"' in answer.text


def test_a_log_that_its_owner_keeps_is_not_asked_for(page: Page, monkeypatch):
    """The coordinator would record each attempt as refused."""
    monkeypatch.setattr(page.site.slow, "ask", lambda _: pytest.fail("it was asked for"))
    for allowed, said in ((False, "does not let operators read"), (None, "cannot send its log")):
        agent = replace(page.site.seen()[0].status.agents[0], log=allowed)
        monkeypatch.setattr("flctl.web.agent_pages._find", lambda *_, agent=agent: agent)
        answer = page.client.get("/agents/pi-01/log").text
        assert said in answer and "bad" not in answer


def test_an_unknown_run_is_not_found(page: Page):
    """In words for a browser: no folder, no command, and the menu is there."""
    answer = page.client.get("/runs/no-such-run")
    assert answer.status_code == 404 and "There is no run no-such-run" in answer.text
    assert "flctl runs" not in answer.text and 'href="/runs"' in answer.text


def test_simulated_agents_are_no_devices():
    known = frozenset({"pi-01"})
    link = rendering._environment().get_template("links.html").module.link_to
    assert link("pi-01", known) == '<a href="/agents/pi-01">pi-01</a>'
    assert link("pi-02", known) == "pi-02"


def test_a_verdict_needs_the_same_figure():
    found = {"a": Worth(0.5, "loss on validation data", True), "b": Worth(0.4, "F1", False)}
    first, said = verdict(found)
    assert first == "" and "b by F1; a by loss on validation data" in said
    found["b"] = Worth(0.4, "loss on validation data", True)
    assert verdict(found)[0] == "b"


def test_alerts_have_a_page_and_are_acknowledged_and_muted(page: Page, fleet: PlayedFleet):
    """The open token of the fleet fires; who may only look sees no button."""
    text = page.until(lambda t: "open token" in t, "/alerts")
    assert re.search(r'data-head="Since">\d{4}-\S+ \S+ UTC<', text) and "close it" in text
    assert 'see <a href="/alerts">Alerts</a>' in page.client.get("/").text
    assert "Nowhere: neither a webhook" in text
    number = re.search(r'name="id" value="(\d+)"', text)
    assert number is not None
    answer = page.client.post("/alerts/ack", data={"id": number[1]})
    assert answer.status_code == 200 and "is acknowledged" in answer.text
    text = page.client.get("/alerts").text
    assert "open token, acknowledged" in text and ">Acknowledge<" not in text
    for for_s, said in (("3600", "muted until"), ("0", "no longer muted")):
        answer = page.client.post("/alerts/mute", data={"name": "open_token", "for_s": for_s})
        assert answer.status_code == 200 and said in answer.text
        assert ("No longer mute" in page.client.get("/alerts/now").text) == (for_s != "0")
    assert page.client.post("/alerts/mute", data={"name": "x", "for_s": "1"}).status_code == 400
    assert page.client.post("/alerts/ack", data={"id": "x"}).status_code == 400


def picture(*happened: Any) -> RunPicture:
    return RunPicture.of("ecg-1", happened)


def test_what_goes_wrong_again_and_again_is_one_line():
    """With how often, and the last round."""
    found = picture(
        *(UpdateRejected(at=float(n), round=n, agent="pi-02", reason="stale") for n in range(1, 4)),
        UpdateRejected(at=4.0, round=4, agent="pi-03", reason="stale"),
        UpdateRejected(at=5.0, round=5, agent="pi-02", reason="stale"),
    )
    lines = [(m.agent, m.round, m.count) for m in run_view.mishaps(found)]
    assert lines == [("pi-02", 5, 4), ("pi-03", 4, 1)]
    for number in range(200):
        found.apply(
            Published("ecg-1", UpdateRejected(at=1.0, round=1, agent="pi-02", reason=f"{number}")),
            0.0,
        )
    assert len(found.mishaps) == MISHAPS


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "open"}, "round 2 is open"),
        ({"phase": "open", "pausing": True}, "round 2 is open; it pauses after this round"),
        ({"phase": "aggregated"}, "round 2 is aggregated"),
        ({"phase": "waiting for agents"}, "round 2 has not begun"),
        ({"phase": "waiting for agents", "pausing": True}, "round 2 has not begun; it pauses now"),
        ({"phase": HELD, "pausing": True}, HELD),
        ({"phase": HELD, "pausing": True, "why": "disk full"}, f"{HELD}; disk full"),
    ],
)
def test_what_a_run_does_is_said_once(status: dict[str, Any], said: str):
    assert run_view.at_work(InProgress(run="ecg-1", round=1, rounds=3, **status)) == said


def test_security_shows_keys_tokens_and_the_audit_file(page: Page, run: str):
    text = page.client.get("/security").text
    for said in ("pi-01", "Open tokens", "more may join until", "Waiting keys", "start", "done"):
        assert said in text
    assert "flt_" not in text
    audit = text.partition("Audit file</h2>")[2]
    assert "begun" not in audit and "{" not in audit and "task=ecg" in audit
    assert re.search(r"<td[^>]*>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC</td>", audit)


def test_alerts_have_words_and_advice():
    assert words.alert("card_full") == "card nearly full" and words.alert("no_round") == "no round"
    assert set(words.ALERT_ADVICE) == set(KINDS)
    assert words.sentence("no agent is there") == "No agent is there"
    assert words.sentence("lr: must be") == "lr: must be"


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_say_what_the_status_says(fleet: PlayedFleet, page: Page, run: str):
    """By the names that the rules ask for, with no run and no error in a label."""
    found = samples(page.client.get("/metrics").text)
    assert found["flctl_up"] == [({}, 1.0)]
    assert {labels["agent"] for labels, _ in found["flctl_agent_up"]} >= {*NAMES}
    assert ({"agent": "pi-01"}, 51.0) in found["flctl_agent_temperature_celsius"]
    assert ({"agent": "pi-01", "state": "ready"}, 1.0) in found["flctl_agent_state"]
    assert len(found["flctl_alerts_firing"]) == 7 and found["flctl_open_tokens"] == [({}, 1.0)]
    assert found["flctl_agent_written_bytes_total"]
    names = {key for each in found.values() for labels, _ in each for key in labels}
    assert names <= {"agent", "version", "arch", "state", "reason", "alert"}
    assert run not in str(found)


def test_metrics_alone_and_with_a_token(fleet: PlayedFleet, tmp_path: Path):
    """Nothing but /metrics is served; without its token there is nothing; a coordinator that is
    away is a zero."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    options = WebOptions(bind="", metrics_only=True, metrics_token=token)
    page = Page(site_of(fleet.state, None, options, tmp_path / "web"), options=options)
    ask = page.client.get
    try:
        assert ask("/").status_code == 404 and ask("/health").status_code == 200
        for wrong in ("", "Bearer", "Bearer secre", "secret2", "Basic secret"):
            assert ask("/metrics", headers={"authorization": wrong}).status_code == 401
        right = {"authorization": "Bearer secret"}
        assert samples(ask("/metrics", headers=right).text)["flctl_up"] == [({}, 1.0)]
        fleet.kill("coordinator")
        wait_for(lambda: "flctl_up 0.0" in ask("/metrics", headers=right).text, "it is away")
        assert len(samples(ask("/metrics", headers=right).text)) == 1
        fleet.start_coordinator()
        wait_for(lambda: "flctl_up 1.0" in ask("/metrics", headers=right).text, "it is back")
    finally:
        page.close()


def test_metrics_beyond_loopback_need_a_token(fleet: PlayedFleet, tmp_path: Path):
    options = WebOptions(bind="", metrics_only=True, local=False)
    page = Page(site_of(fleet.state, None, options, tmp_path / "web"), options=options)
    assert page.client.get("/metrics").status_code == 403
    page.close()
