"""A campaign on a Ray cluster leaves the store of a local one, also when a node is lost half-way."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from harness.cases import case_from_data
from harness.cli.main import main
from harness.cluster import PIECES, ray_lanes
from harness.lane import Item
from harness.records import Phases, Record
from harness.store import Store, read_records
from harness.verify import Settings
from tests.harness.here import here_lanes

HAS_RAY = importlib.util.find_spec("ray") is not None
CASES = 6 * PIECES


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed here")
def test_without_ray_one_sentence_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--op", "rms_norm", "--engine", "ray"]) == 2
    said = capsys.readouterr().err
    assert said == "attest: --engine: got 'ray', expected Ray to be installed: pip install 'attest[ray]'\n"


def held(records: list[Record]) -> dict[tuple[str, str], Record]:
    return {
        (item.case_id, item.candidate): dataclasses.replace(item, started="", phases=Phases(), environment={})
        for item in records
    }


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray, an optional extra, is not installed: pip install 'attest[ray]'")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_lost_node_loses_nothing(tmp_path: Path, odd_plugin: str) -> None:
    """Two nodes of one core each; the second is killed when a third of the records is there."""
    from ray.cluster_utils import Cluster

    settings = Settings(plugin=odd_plugin)
    cases = [
        case_from_data({"op": "rms_norm", "batch": 1, "tokens": 3, "channels": 8, "seed": n}) for n in range(CASES)
    ]
    items = [Item(case, ("right", "one-percent-more")) for case in cases]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        with Store(tmp_path) as store, ray_lanes(settings, 1, address=cluster.address) as pool:
            for number, record in enumerate(pool.verify(items)):
                store.append(record)
                if number == 2 * CASES // 3:
                    cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()
    with here_lanes(settings, 1) as pool:
        local = list(pool.verify(items))
    found = list(read_records(tmp_path))
    assert len(found) == len(local) == 2 * CASES
    assert held(found) == held(local)
