"""A Ray cluster of two nodes on this machine, of which one is killed in mid-run; run as a script, for it needs a Ray of its own.

python -m tests.grid.two_nodes FOLDER one|all|join: with `one`, the other node does the rest; with `all`, no CPU is left, the run
fails and is resumed on a Ray of its own; with `join`, as `one`, of a cluster that is joined by its address. Prints JSON.
"""

import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}

import ray
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file

from fedapt.errors import RunFailed
from fedapt.grid.ray_pool import RayPool
from fedapt.grid.ray_session import RaySession
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.resuming import resume
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.grid.accident import Slow
from tests.grid.conftest import same_bits, scenario
from tests.grid.play import play

ROUNDS = 12


def main(folder: Path, loss: str) -> dict:
    warnings.simplefilter("ignore")
    survivors = 0 if loss == "all" else 1
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": survivors, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)
    if loss != "join":
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)

    def lose(now: Callable[[], bool]) -> None:
        while not now():
            time.sleep(0.05)
        cluster.remove_node(doomed, allow_graceful=False)

    when = (lambda: committed(folder) > 0) if loss == "all" else (folder / doomed.node_id).exists
    threading.Thread(target=lose, args=[when], daemon=True).start()
    try:
        if loss == "all":
            return all_are_lost(folder, cluster)
        return one_is_lost(folder, cluster.address if loss == "join" else None)
    finally:
        ray.shutdown()
        cluster.shutdown()


def one_is_lost(folder: Path, address: str | None) -> dict:
    """Play on both nodes; every visit is slow, so that the loss comes in mid-round."""
    with RaySession(None, address) as session:
        workers = session.wait()
        model, rows, _ = play(
            scenario(), lambda enrolment: RayPool(Slow(enrolment.workshop, folder), None, chunk=2, grace_s=60.0, session=session)
        )
    lost = [row.reason for row in rows if row.status != "ok"]
    nodes = len(list(folder.iterdir()))
    same = same_bits(model, play(scenario())[0])
    return {"same_bits": same, "ok": len(rows) - len(lost), "lost": lost, "workers": workers, "nodes": nodes}


def all_are_lost(folder: Path, cluster: Cluster) -> dict:
    """Run on the one node with a CPU until it is lost; then resume, and compare with a run that was never interrupted."""
    engine = {"kind": "ray", "workers": 1, "grace_s": 5.0}
    # A chance that no draw is below: clients that may crash are left to workers from the first round on.
    faults = {"crash": 1e-12}
    with Stopper() as stopper:
        try:
            run(scenario(rounds=ROUNDS, engine=engine, faults=faults), folder / "runs", Display(StringIO()), stopper)
        except RunFailed as error:
            failed = error
        left_running = ray.is_initialized()
        ray.shutdown()
        cluster.shutdown()
        (path,) = (folder / "runs").iterdir()
        before = committed(folder)
        resume(path, Display(StringIO()), stopper)
        whole = run(scenario(rounds=ROUNDS, faults=faults), folder / "whole", Display(StringIO()), stopper)
    return {
        "error": str(failed),
        "exit_code": failed.exit_code,
        "ray_left_running": left_running,
        "committed": before,
        "rounds": len(read_run(path).rounds),
        "same_bits": same_bits(load_file(path / "model.safetensors"), load_file(whole / "model.safetensors")),
    }


def committed(folder: Path) -> int:
    """Return how many rounds are in the table of the only run."""
    tables = list((folder / "runs").glob("*/rounds.csv"))
    return len(tables[0].read_text().splitlines()) - 1 if tables else 0


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
