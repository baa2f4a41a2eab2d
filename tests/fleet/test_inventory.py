import builtins
import textwrap
from pathlib import Path

import pytest

from flctl.errors import UsageError
from flctl.fleet.inventory import Expected, read_inventory

INI = """\
    # the shelf
    server ansible_host=10.0.0.2

    [flctl_coordinator]
    server

    [lab]
    pi-[01:03] ansible_user=pi   # who logs in
    pi-04:2222 ansible_host=10.0.0.14 motd="two words"  # far away

    [ward]
    Heart-Monitor flctl_name=monitor ansible_host=10.0.0.20

    [site:children]
    lab
    ward

    [site:vars]
    ansible_port=22
    """

YAML = """\
    all:
      hosts:
        server:
      vars:
        ansible_user: pi
        vault: !vault |
          $ANSIBLE_VAULT;1.1;AES256
      children:
        flctl_coordinator:
          hosts:
            server:
        flctl_agents:
          children:
            lab:
              hosts:
                pi-[01:02]:
                pi-07: {ansible_host: 10.0.0.17}
            ward:
              hosts:
                Heart-Monitor: {flctl_name: monitor}
        printers:
          hosts:
            hp: {}
    """


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_inventory(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ini_names_all_hosts_but_the_coordinators(tmp_path: Path) -> None:
    """Without a group flctl_agents, every host outside flctl_coordinator is an agent."""
    assert read_inventory(write(tmp_path, "hosts", INI)) == (
        Expected("monitor", "10.0.0.20", 12),
        Expected("pi-01", "pi-01", 8),
        Expected("pi-02", "pi-02", 8),
        Expected("pi-03", "pi-03", 8),
        Expected("pi-04", "10.0.0.14", 9),
    )


def test_yaml_names_the_hosts_of_the_agents_group(tmp_path: Path) -> None:
    """Hosts of flctl_agents and of its children count, and no others."""
    assert read_inventory(write(tmp_path, "hosts.yml", YAML)) == (
        Expected("monitor", "Heart-Monitor", 20),
        Expected("pi-01", "pi-01", 16),
        Expected("pi-02", "pi-02", 16),
        Expected("pi-07", "10.0.0.17", 17),
    )


def test_form_is_recognised_without_a_suffix(tmp_path: Path) -> None:
    """A file called `hosts` may be YAML."""
    assert len(read_inventory(write(tmp_path, "hosts", YAML))) == 4


def test_agents_group_in_ini_has_children(tmp_path: Path) -> None:
    """`[flctl_agents:children]` makes the hosts of those groups agents."""
    text = """\
        other
        [flctl_agents:children]
        lab
        [lab]
        pi-1
        """
    assert [agent.name for agent in read_inventory(write(tmp_path, "hosts", text))] == ["pi-1"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hosts", ""),
        ("hosts", "# nobody yet\n"),
        ("hosts", "[flctl_agents]\n[web]\nw1\n"),
        ("hosts.yml", ""),
        ("hosts.yml", "---\n"),
        ("hosts.yml", "all: &all\n  <<: *all\n"),
    ],
)
def test_an_inventory_without_agents_is_a_mistake(tmp_path: Path, name: str, text: str) -> None:
    """Compared with it, every agent would be one too many."""
    file = write(tmp_path, name, text)
    told = "names no agent: put their hosts into the group flctl_agents"
    assert refusal(file) == f"{file}: {told}"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("pi-[8:10]", ["pi-10", "pi-8", "pi-9"]),
        ("pi-[08:10]", ["pi-08", "pi-09", "pi-10"]),
        ("pi-[1:9:4]", ["pi-1", "pi-5", "pi-9"]),
        ("pi-[a:c]", ["pi-a", "pi-b", "pi-c"]),
        ("r[1:2]-pi[1:2].lan:22", ["r1-pi1.lan", "r1-pi2.lan", "r2-pi1.lan", "r2-pi2.lan"]),
        ("10.0.0.[1:2]", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_ranges(tmp_path: Path, pattern: str, names: list[str]) -> None:
    """A range stands for all its names in both forms; a port is not part of a name."""
    ini = write(tmp_path, "hosts", f"{pattern}\n")
    assert [agent.name for agent in read_inventory(ini)] == names
    yaml = write(tmp_path, "hosts.yml", f"all: {{hosts: {{'{pattern}': }}}}\n")
    assert [agent.name for agent in read_inventory(yaml)] == names


def test_a_host_named_twice_is_one_agent(tmp_path: Path) -> None:
    """Duplicates merge; the first place counts, the later variable wins."""
    text = "[a]\npi ansible_host=10.0.0.1\n[b]\npi ansible_host=10.0.0.2\n"
    assert read_inventory(write(tmp_path, "hosts", text)) == (Expected("pi", "10.0.0.2", 2),)


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    """Groups and host_vars go across files; backups and hidden files are passed over."""
    write(tmp_path, "one", "[flctl_agents:children]\nlab\n")
    write(tmp_path, "two.yml", "lab:\n  hosts:\n    pi-1:\n    pi-2:\n")
    write(tmp_path, "host_vars/pi-2.yml", "flctl_name: second\nlist: [1, 2]\n")
    write(tmp_path, "two.yml.bak", "{{{{")
    write(tmp_path, ".hidden", "{{{{")
    assert [agent.name for agent in read_inventory(tmp_path)] == ["pi-1", "second"]


def test_merged_keys_and_templates(tmp_path: Path) -> None:
    """`<<` brings in hosts; an address that only Ansible can evaluate is not shown."""
    text = """\
        spare: &spare
          pi-9:
        all:
          hosts:
            <<: *spare
            pi-1: {ansible_host: "{{ lookup('env', 'PI') }}"}
        """
    text = text.replace("spare: &spare\n          pi-9:", "spare: {hosts: &spare {pi-9: }}")
    agents = read_inventory(write(tmp_path, "hosts.yml", text))
    assert [(agent.name, agent.host) for agent in agents] == [("pi-1", "pi-1"), ("pi-9", "pi-9")]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("pi-1\npi-2 broken\n", 2, "expected key=value after pi-2, got: broken"),
        ("pi-1\n\n[lab:kids]\n", 3, "[lab:kids] is neither a group"),
        ("[lab one]\n", 1, "not a section"),
        ("pi\n[flctl_agents\npi-1\n", 2, "not a section, [NAME]: [flctl_agents"),
        ("[flctl_agents # who trains\n", 1, "not a section"),
        ("flctl_agents]\n", 1, "'flctl_agents]' is no host"),
        ("[flctl_agents] pi=1\n", 1, "'[flctl_agents]' is no host"),
        ("pi\n[a:children]\nb\n[b:children]\na\n", 3, "contains itself (a > b > a): remove b"),
        ("pi\n[a:children]\na\n", 3, "the group a contains itself (a > a): remove a from"),
        ('pi-1 a="b\n', 1, "cannot be split into words"),
        ("[lab:vars]\nport 22\n", 2, "expected key=value"),
        ("[site:children]\nlab ward\n", 2, "the name of one group"),
        ("[site:children]\nlab\n", 2, "unknown group 'lab'"),
        ("pi-[1:a]\n", 1, "mixes letters and digits"),
        ("pi-[5:1]\n", 1, "ends before it begins"),
        ("pi-[01:100]\n", 1, "differ in length"),
        ("pi-[1:5:0]\n", 1, "out of bounds"),
        ("pi-[1:999999999]\n", 1, "more than 100000 hosts"),
        ("x" * 300 + "\n", 1, "longer than 255 characters"),
        ("\n[1:2]\n", 2, "is neither a group"),
        ("pi\nPi-01\n", 2, "'Pi-01' cannot be an agent's name"),
        ("pi flctl_name={{x}}\n", 1, "'{{x}}' cannot be an agent's name"),
        ("pi\0\n", 1, "cannot be an agent's name"),
        ("#!/usr/bin/env python3\n", 1, "a dynamic inventory is not run here"),
    ],
)
def test_malformed_ini(tmp_path: Path, text: str, line: int, what: str) -> None:
    """One sentence names the file, the line and what is wrong there."""
    file = write(tmp_path, "hosts", text)
    message = refusal(file)
    assert message.startswith(f"{file}, line {line}: ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("all:\n  hosts: [pi-1]\n", 2, "hosts of all must be a mapping"),
        ("all:\n  hots:\n", 2, "unknown key 'hots' in the group all"),
        ("all:\n  hosts:\n    ? [a]\n    : b\n", 3, "must be plain text"),
        ("- pi-1\n", 1, "the inventory must be a mapping"),
        ("all:\n  hosts: {\n", 3, "not YAML"),
        ("a: *nowhere\n", 1, "not YAML"),
        ("a: {}\n---\nb: {}\n", 2, "not YAML"),
        ("plugin: aws_ec2\n", 1, "a dynamic inventory is not run here"),
        ("all: {hosts: {'pi-[1:9][1:99999][1:99999]': }}\n", 1, "more than 100000 hosts"),
        ("all: {hosts: {pi: 3}}\n", 1, "variables of pi must be a mapping"),
        ("all: {hosts: {'[pi': }}\n", 1, "'[pi' is no host"),
        (
            "all: &all\n  hosts: {pi: }\n  children:\n    lab: *all\n",
            4,
            "contains itself (lab > lab)",
        ),
    ],
)
def test_malformed_yaml(tmp_path: Path, text: str, line: int, what: str) -> None:
    """One sentence names the file, the line and what is wrong there."""
    file = write(tmp_path, "hosts.yml", text)
    message = refusal(file)
    assert message.startswith(f"{file}, line {line}: ")
    assert what in message


def test_yaml_cannot_execute(tmp_path: Path) -> None:
    """A tag that would run a command in an unsafe loader is only text."""
    target = tmp_path / "made"
    text = f"all: {{hosts: {{pi: {{a: !!python/object/apply:os.system ['touch {target}']}}}}}}\n"
    assert len(read_inventory(write(tmp_path, "hosts.yml", text))) == 1
    assert not target.exists()


def test_alias_bomb_ends(tmp_path: Path) -> None:
    """Groups that double at each level are read once each."""
    levels = ["g0: &g0 {hosts: {pi: }}"]
    levels += [f"g{n}: &g{n} {{children: {{a{n}: *g{n - 1}, b{n}: *g{n - 1}}}}}"
               for n in range(1, 60)]  # fmt: skip
    bomb = write(tmp_path, "bomb.yml", "\n".join(levels))
    assert [agent.name for agent in read_inventory(bomb)] == ["pi"]


def test_merge_bomb_ends(tmp_path: Path) -> None:
    """Merges that double at each level are followed once each."""
    levels = ["m0: {vars: &m0 {x: y}}"]
    levels += [f"m{n}: {{vars: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}}}" for n in range(1, 60)]
    levels.append("all: {hosts: {pi: *m59}}")
    assert len(read_inventory(write(tmp_path, "bomb.yml", "\n".join(levels)))) == 1


def test_deep_nesting_ends(tmp_path: Path) -> None:
    """A file that nests without end is refused, not a crash."""
    file = write(tmp_path, "deep.yml", "[" * 100_000)
    assert refusal(file) == f"{file}: nested too deeply; is this an inventory?"


def test_unreadable_files(tmp_path: Path) -> None:
    """Missing, huge, binary: each is said in one line."""
    assert refusal(tmp_path / "no").endswith("cannot read the inventory: No such file or directory")
    assert refusal(tmp_path).endswith("no inventory file in this folder")
    (tmp_path / "hosts").write_bytes(b"a\n" * 600_000)
    assert "larger than 1048576 bytes" in refusal(tmp_path / "hosts")
    (tmp_path / "hosts").write_bytes(b"pi\n\xff\xfe\n")
    assert f"{tmp_path / 'hosts'}, line 2: not UTF-8 text" in refusal(tmp_path / "hosts")


def test_missing_pyyaml_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML without PyYAML names the extra to install; INI needs nothing."""
    original = builtins.__import__

    def without_yaml(name: str, *args: object, **kwargs: object) -> object:
        if name == "yaml":
            raise ImportError(name)
        return original(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    assert "pip install 'flctl[inventory]'" in refusal(write(tmp_path, "hosts.yml", YAML))
    assert len(read_inventory(write(tmp_path, "hosts", INI))) == 5
