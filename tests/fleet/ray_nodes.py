"""A Ray cluster of two nodes with one CPU each, until its standard input ends.

    python ray_nodes.py < PIPE

It prints a line of JSON: the address, and the process of either node, whose children are its
workers. Without what `ray start` starts beside them, which are nine more processes with Python.
"""

import json
import sys

from ray.cluster_utils import Cluster

OWN = {
    "num_cpus": 1,
    "object_store_memory": 80_000_000,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
}

if __name__ == "__main__":
    cluster = Cluster()
    nodes = [cluster.add_node(**OWN) for _ in range(2)]
    processes = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "nodes": processes}), flush=True)
    sys.stdin.read()
    cluster.shutdown()
