"""Runs on the host: starts, removes or inspects a container of flctl."""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.flctl_engine import NotInstalled, Unusable, docker
from ansible.module_utils.flctl_identity import of_inspected

DOCUMENTATION = """
module: flctl_container
short_description: Run a container of flctl with few rights
description:
  - Compares the container with the options, and replaces it if they differ. Creates the new
    container before stopping the old one, so that options that Docker refuses change nothing.
  - Always read-only, without capabilities, started at every boot, with a size limit on its log.
    FLCTL_IMAGE in its environment identifies the image.
options:
  name: {type: str, required: true, description: "Name of the container."}
  state:
    type: str
    choices: [started, absent, looked]
    default: started
    description: "V(looked) only reports."
  image: {type: str, description: "NAME:TAG; the host must have it."}
  hostname: {type: str, description: "Host name in the container."}
  command: {type: list, elements: str, default: [], description: "Replaces the image's command."}
  health: {type: str, default: "", description: "Replaces its health check."}
  env: {type: dict, default: {}, description: "Further environment variables."}
  volumes: {type: list, elements: str, default: [], description: "PATH:PATH, or PATH:PATH:ro."}
  ports: {type: list, elements: str, default: [], description: "PORT:PORT, or ADDRESS:PORT:PORT."}
  tmpfs: {type: dict, default: {}, description: "Mount options by folder."}
  memory: {type: str, default: "0", description: "Limit, such as 512m, with swap."}
  pids: {type: int, default: 256, description: "Most processes and threads."}
  network: {type: str, default: bridge, description: "Docker network."}
  stop_s: {type: int, default: 30, description: "Time limit for its shutdown."}
author: flctl
"""
RETURN = """
exists: {type: bool, returned: always, description: "Whether the container existed."}
differs: {type: list, returned: always, description: "Options that differed."}
"""

UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LOG = {"max-size": "5m", "max-file": "2"}


def bytes_of(text):
    """512m, or 2g, or a number of bytes."""
    text = text or "0"
    number, unit = (text[:-1], text[-1].lower()) if text[-1].isalpha() else (text, "b")
    if unit not in UNITS or not number.isdigit():
        raise Unusable(f"memory: '{text}' is not a size such as 512m or 2g")
    return int(number) * UNITS[unit]


def bindings(ports):
    """In Docker's form: the port in the container, and where it is published."""
    found = {}
    for port in ports:
        address, _, rest = port.rpartition(":")
        host, _, published = address.rpartition(":")
        found.setdefault(f"{rest}/tcp", []).append(
            {"HostIp": host.strip("[]"), "HostPort": published}
        )
    return found


def inspect(what, name):
    try:
        (found,) = json.loads(docker(what, "inspect", name))
    except Unusable as error:
        if "o such" in str(error):
            return None
        raise
    return found


def variables(pairs):
    return dict(pair.partition("=")[::2] for pair in pairs or [])


def shell(command):
    return ["CMD-SHELL", command]


def test_of(config):
    return (config.get("Healthcheck") or {}).get("Test")


def wanted(wish, image):
    memory = bytes_of(wish["memory"])
    return {
        "image": image["Id"],
        "command": wish["command"] or image["Config"].get("Cmd"),
        "health": shell(wish["health"]) if wish["health"] else test_of(image["Config"]),
        "hostname": wish["hostname"],
        "env": {**variables(image["Config"].get("Env")), **wish["env"]},
        "volumes": sorted(wish["volumes"]),
        "ports": bindings(wish["ports"]),
        "tmpfs": wish["tmpfs"],
        "memory": [memory, memory],
        "pids": wish["pids"],
        "network": wish["network"],
        "restart": "unless-stopped",
        "stop_s": wish["stop_s"],
        "privileges": [True, ["ALL"], [], False, True],
        "log": ["local", LOG],
    }


def present(found):
    config, host = found["Config"], found["HostConfig"]
    security = host.get("SecurityOpt") or []
    return {
        "image": found["Image"],
        "command": config.get("Cmd"),
        "health": test_of(config),
        "hostname": config["Hostname"],
        "env": variables(config["Env"]),
        "volumes": sorted(host.get("Binds") or []),
        "ports": host.get("PortBindings") or {},
        "tmpfs": host.get("Tmpfs") or {},
        "memory": [host.get("Memory"), host.get("MemorySwap")],
        "pids": host.get("PidsLimit"),
        "network": host["NetworkMode"],
        "restart": host["RestartPolicy"]["Name"],
        "stop_s": config.get("StopTimeout"),
        "privileges": [
            host["ReadonlyRootfs"], host.get("CapDrop") or [], host.get("CapAdd") or [],
            host["Privileged"], any(option.startswith("no-new-privileges") for option in security),
        ],
        "log": [host["LogConfig"]["Type"], host["LogConfig"]["Config"]],
    }  # fmt: skip


def create(wish, name):
    options = [
        f"--name={name}", f"--hostname={wish['hostname']}", f"--network={wish['network']}",
        f"--pids-limit={wish['pids']}", f"--stop-timeout={wish['stop_s']}",
        "--restart=unless-stopped", "--read-only", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", "--log-driver=local",
    ]  # fmt: skip
    options += [f"--log-opt={key}={value}" for key, value in LOG.items()]
    if memory := bytes_of(wish["memory"]):
        options += [f"--memory={memory}", f"--memory-swap={memory}"]
    options += [f"--tmpfs={folder}:{how}" for folder, how in wish["tmpfs"].items()]
    options += [f"--volume={volume}" for volume in wish["volumes"]]
    options += [f"--publish={port}" for port in wish["ports"]]
    # By name: every user of the host can see a value on the command line.
    options += [f"--env={key}" for key in wish["env"]]
    options += [f"--health-cmd={wish['health']}"] if wish["health"] else []
    docker("container", "create", *options, wish["image"], *wish["command"], env=wish["env"])


def start(module, found):
    wish, name = module.params, module.params["name"]
    image = inspect("image", wish["image"])
    if image is None:
        if module.check_mode:
            return {"changed": True, "differs": ["image"]}
        raise Unusable(f"there is no image {wish['image']}: run the playbook deploy")
    wish["env"] = {**wish["env"], "FLCTL_IMAGE": of_inspected(image)[0]}
    want = wanted(wish, image)
    have = present(found) if found else {}
    differs = [part for part in want if want[part] != have.get(part)]
    running = bool(found) and found["State"]["Running"]
    if module.check_mode or (running and not differs):
        return {"changed": not running or bool(differs), "differs": differs}
    if differs:
        new = f"{name}-new"
        remove(new)
        create(wish, new)
        if found:
            docker("stop", f"--time={wish['stop_s']}", name)
            remove(name)
        docker("rename", new, name)
    docker("start", name)
    return {"changed": True, "differs": differs}


def remove(name):
    if inspect("container", name) is not None:
        docker("rm", "--force", "--volumes", name)


def act(module):
    wish = module.params
    found = inspect("container", wish["name"])
    result = {"changed": False, "exists": found is not None, "differs": []}
    if wish["state"] == "started":
        wish["env"] = {key: str(value) for key, value in wish["env"].items()}
        result.update(start(module, found))
    elif wish["state"] == "absent" and found:
        result["changed"] = True
        if not module.check_mode:
            docker("stop", f"--time={wish['stop_s']}", wish["name"])
            remove(wish["name"])
    return result


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["started", "absent", "looked"],
                "default": "started",
            },
            "image": {"type": "str"},
            "hostname": {"type": "str"},
            "command": {"type": "list", "elements": "str", "default": []},
            "health": {"type": "str", "default": ""},
            "env": {"type": "dict", "default": {}},
            "volumes": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "str", "default": []},
            "tmpfs": {"type": "dict", "default": {}},
            "memory": {"type": "str", "default": "0"},
            "pids": {"type": "int", "default": 256},
            "network": {"type": "str", "default": "bridge"},
            "stop_s": {"type": "int", "default": 30},
        },
        required_if=[("state", "started", ["image", "hostname"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except NotInstalled as error:
        if module.check_mode or module.params["state"] != "started":  # so there is no container
            module.exit_json(changed=module.params["state"] == "started", exists=False, differs=[])
        module.fail_json(msg=str(error))
    except Unusable as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
