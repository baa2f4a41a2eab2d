"""Makes docs/explanation/comparison.md of the files in results/: all figures are from programs."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import run

PAGE = run.ROOT / "docs/explanation/comparison.md"
NOTES = run.HERE / "notes.md"
WORDS = {
    "lr": "Logistic regression: 1,000 clients of 60 images, 10 a round, 100 rounds, "
    "a test every 20",
    "cnn": "Network of McMahan et al. 2017 (1.66 million parameters): 100 clients, 10 a round, 30 "
    "rounds, no tests",
}
HEAD = """# Comparison with other systems

The same training jobs run with flctl, with Flower (`flwr`), NVIDIA FLARE (`nvflare`) and
pfl-research (`pfl`), and as a `plain` PyTorch loop without any system. `flctl-jobs-2` is flctl with
two processes (`--jobs 2`). [What differs](#what-differs-between-the-systems) is below.

Seconds, CPU and memory cover the whole command, including its start and the reading of the data,
and are the minimum of a row's runs. Memory is the peak of all processes together (PSS, sampled five
times a second). CPU seconds are those that the processes themselves report. One program evaluates
the final weights of every system on MNIST's test set. `make compare` repeats the runs and writes
this page from their results.""".splitlines()
WHAT = {"first_round_s": "time of the first round", "round_s": "time of a round",
        "server_peak_mib": "memory of the server", "idle_server_mib": "memory of an idle server",
        "idle_client_mib": "memory of an idle client"}  # fmt: skip
Rows = dict[str, list[dict[str, Any]]]


def lines_of(system: run.System) -> int:
    """Of code that a user writes: neither empty nor a comment."""
    found = 0
    for name in system.code:
        for line in (run.HERE / "systems" / name).read_text().splitlines():
            found += bool(line.strip()) and not line.strip().startswith("#")
    return found


def read() -> dict[str, Rows]:
    """By job and system, in the order of the runs."""
    found: dict[str, Rows] = defaultdict(lambda: defaultdict(list))
    for path in sorted(run.RESULTS.glob("*.json")):
        row = json.loads(path.read_text())
        if row.get("job") in WORDS:
            found[row["job"]][row["system"]].append(row)
    return found


def least(rows: list[dict[str, Any]], key: str) -> float:
    return min(float(row[key]) for row in rows)


def same(rows: list[dict[str, Any]]) -> str:
    if len(rows) < 2:
        return "one run"
    return "yes" if len({row["sha256"] for row in rows}) == 1 else "no"


def table(job: str, rows: Rows) -> list[str]:
    out = [
        f"## {WORDS[job]}",
        "",
        "| system | seconds | CPU s | MiB | accuracy | loss | same seed, same bytes | runs "
        "| load before |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    whole = {name: [row for row in found if "sha256" in row] for name, found in rows.items()}
    ordered = sorted(whole, key=lambda name: least(whole[name], "seconds") if whole[name] else 1e9)
    for name in ordered:
        good = whole[name]
        if not good:
            failed = rows[name][-1]
            why = (
                "did not finish within {} s".format(failed["seconds"])
                if failed["code"] is None
                else ("; ".join(failed["words"][-2:]))
            )
            out.append(f"| {name} | {why} | | | | | | {len(rows[name])} | |")
            continue
        last = good[-1]
        out.append(
            f"| {name} | {least(good, 'seconds'):.1f} | {least(good, 'cpu_s'):.1f} "
            f"| {min(row['peak_mib'] for row in good):.0f} | {last['accuracy']:.4f} "
            f"| {last['loss']:.4f} | {same(good)} | {len(good)} "
            f"| {', '.join(str(round(row['load_before'])) for row in good)} |"
        )
    out += ["", *lost(whole), ""]
    return out


def lost(rows: Rows) -> list[str]:
    """Where another system is ahead of flctl, the page says so."""
    if not rows.get("flctl"):
        return []
    out = []
    for key, word in (
        ("seconds", "time"),
        ("cpu_s", "CPU"),
        ("peak_mib", "memory"),
    ):
        own = least(rows["flctl"], key)
        better = {
            name: least(found, key) / own
            for name, found in rows.items()
            if found and not name.startswith("flctl") and least(found, key) < own
        }
        for name, share in sorted(better.items()):
            out.append(f"- {name} needs {share:.2f} times the {word} of flctl.")
    return out or ["flctl is ahead in time, CPU and memory."]


def fleets() -> list[str]:
    """Real processes, by number of clients, and what kill -9 did."""
    found = [json.loads(path.read_text()) for path in sorted(run.RESULTS.glob("fleet-*.json"))]
    if not found:
        return []
    quiet = [row for row in found if row["kill"] == "none"]
    out = [
        "## Real servers and clients",
        "",
        "The same network, with a server and clients as separate processes on one machine. Each "
        "client trains only six batches of ten images in a round, so that the figures show the "
        "system, not the training. Memory is that of all processes of the server, or of one "
        "client.",
        "",
        "| system | clients | first round s | round s | server MiB | idle server MiB "
        "| idle client MiB | completed rounds, of 6 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(quiet, key=lambda row: (row["fleet"], row["clients"])):
        figures = (row[key] for key in WHAT)
        cells = " | ".join("-" if each is None else f"{each:.1f}" for each in figures)
        out.append(f"| {row['fleet']} | {row['clients']} | {cells} | {row['rounds_seen']} |")
    out += ["", *lost_fleets(quiet)]
    out += [
        "",
        "| system | what was killed (`kill -9`) in the third of six rounds and restarted after 5 s "
        "| the run |",
        "|---|---|---|",
    ]
    for row in found:
        if row["kill"] != "none":
            of = "one" if row["kill"] == "client" else "the server"
            out.append(f"| {row['fleet']} | {of} of {row['clients']} clients | {outcome(row)} |")
    out += ["", "`benchmarks/compare/fleet.py SYSTEM --clients N --kill none|server|client` "
            "repeats one row. The runs were started with:", ""]  # fmt: skip
    out += sorted({f"- {row['fleet']}: `{row['commands'][-1]}`" for row in quiet})
    loads = [row["load_before"] for row in found]
    out += ["", f"Load average before these runs: {min(loads)} to {max(loads)}.", ""]
    return out


def outcome(row: dict[str, Any]) -> str:
    """What is left of a run after `kill -9`."""
    state = f"it reports `{row['state']}`" if "state" in row else ""
    if row["finished"]:
        return "completes" + (f"; {state}" if state else "")
    told = [line.strip("│╭╰╮╯─ ") for line in row["words"]["run"]]
    last = " ".join([line for line in told if line.strip()][-2:])
    seen = row["rounds_seen"]
    return f"does not complete within four minutes; {seen} rounds completed; {state}; `{last}`"


def lost_fleets(rows: list[dict[str, Any]]) -> Iterator[str]:
    for own in (row for row in rows if row["fleet"] == "flctl"):
        for other in rows:
            if other["fleet"] == "flctl" or other["clients"] != own["clients"]:
                continue
            for key, what in WHAT.items():
                if None not in (other[key], own[key]) and other[key] < own[key]:
                    share = other[key] / own[key]
                    yield (f"- With {own['clients']} clients, {other['fleet']} needs {share:.2f} "
                           f"times the {what} of flctl.")  # fmt: skip


def main() -> None:
    found = read()
    if not found:
        sys.exit(f"{run.RESULTS} holds no results: run make compare")
    every = [row for rows in found.values() for each in rows.values() for row in each]
    machine, dates = every[0]["machine"], sorted(row["date"] for row in every)
    page = [
        *HEAD,
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}. Time: {dates[0]} to {dates[-1]}. Load "
        f"average before the runs: {min(r['load_before'] for r in every)} to "
        f"{max(r['load_before'] for r in every)}.", "",
    ]  # fmt: skip
    for job in WORDS:
        if job in found:
            page += table(job, found[job])
    page += fleets()
    page += ["## Commands and versions", "",
             "| system | version, torch | lines of user code | commands |",
             "|---|---|---:|---|"]  # fmt: skip
    for name, system in run.SYSTEMS.items():
        rows = [row for job in found.values() for row in job.get(name, ())]
        if not rows:
            continue
        commands = "<br>".join(sorted({f"`{row['command']}`" for row in rows}))
        page.append(f"| {name} | {rows[-1]['version']} | {lines_of(system)} | {commands} |")
    page += ["", NOTES.read_text().rstrip(), ""]
    PAGE.write_text("\n".join(page))


if __name__ == "__main__":
    main()
