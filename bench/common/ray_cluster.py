"""A Ray cluster of several nodes on this machine, for measurements and tests.

The head has no CPU; each node has one.  Their processes are started and ended here, by their ids.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mcdiff_batch.engine.cluster.session import load_ray

STORE = 80 << 20  # bytes, Ray's least
QUICK = {  # a node that is gone is noticed soon
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}


class RayCluster:
    """Nodes come and go by `add` and `kill`."""

    def __init__(self) -> None:
        load_ray()
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
        options = head | {"_system_config": QUICK}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=options)
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def keep(self, count: int) -> None:
        """Adds nodes until there are `count`."""
        while len(self.nodes) < count:
            self.add()

    def add(self, cpus: int = 1) -> None:
        node = self.cluster.add_node(num_cpus=cpus, object_store_memory=STORE, wait=False)
        self.nodes.append(node)

    def empty(self) -> None:
        """Ends all nodes but the head."""
        while self.nodes:
            self.kill()

    def pid(self, index: int) -> int:
        """Of the process that is a node; it keeps the node's workers."""
        return int(self.nodes[index].all_processes["raylet"][0].process.pid)

    def kill(self) -> None:
        """Ends the newest node without a word."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def close(self) -> None:
        self.cluster.shutdown()


@contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """environment: variables of all processes of the cluster."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        cluster = RayCluster()
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
