"""The projects whose implementations are on trial, the first word of each candidate's name."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.explanation import reproduction
from harness.records import Record

__all__ = ["PROJECTS", "Project", "command", "plugin_of", "project_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Where implementations come from.

    Attributes:
        title: as its authors write it.
        package: its distribution, whose version the page shows.
        runs: how it runs on a CPU, for the page.
    """

    title: str
    package: str
    runs: str


PROJECTS: Mapping[str, Project] = {
    "torch": Project(title="PyTorch", package="torch", runs="compiled for the CPU"),
    "transformers": Project(title="transformers", package="transformers", runs="torch on the CPU"),
    "d9d": Project(
        title="d9d", package="d9d", runs="torch on the CPU; its norms and Gated DeltaNet in Triton's interpreter"
    ),
    "fla": Project(
        title="flash-linear-attention",
        package="fla-core",
        runs="Triton's interpreter, naive forms in torch; bfloat16 kernels need a GPU",
    ),
    "liger": Project(
        title="Liger Kernel", package="liger-kernel", runs="Triton's interpreter; bfloat16 kernels need a GPU"
    ),
}


def project_of(candidate: str) -> str:
    """Returns the project of a candidate."""
    return candidate.partition("-")[0]


def plugin_of(project: str) -> str:
    """Returns the plug-in file of a project, from the root of a checkout."""
    return f"tests/peers/{project}_peers.py"


def command(record: Record) -> str:
    """Returns the line that runs a record's case again, from the root of a checkout."""
    return reproduction(record, plugin=plugin_of(project_of(record.candidate)))
