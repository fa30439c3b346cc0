"""One rehearsal of the campaign on a GPU, for all who read what it leaves."""

from pathlib import Path

import pytest

from harness.gpu import __main__ as campaign
from harness.gpu.steps import Plan, Step, steps
from tests.harness.gpu.planted import script


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Returns the folder and the exit code of a rehearsal with a planted failing step before three real ones."""
    folder = tmp_path_factory.mktemp("gpu") / "campaign"

    def with_a_failing_step(asked: Plan) -> list[Step]:
        return [script("planted", "raise SystemExit('this step is broken')"), *steps(asked)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "steps", with_a_failing_step)
        chosen = ["--steps", "planted,machine,smoke,bench-silu_mul", "--rehearse", "--jobs", "1"]
        chosen += ["--candidate", "torch-rms-norm-bf16"]
        code = campaign.main([*chosen, "--out", str(folder), "--pack", str(folder.with_name("packed"))])
    return folder, code
