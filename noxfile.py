"""All that a newcomer and CI run: `nox -l` lists it, `nox -s NAME` does it, environments and torch included.

Everything after `--` goes on: `nox -s attest -- run --profile quick`, `nox -s tests -- -k rooms`.
An environment is made once and then reused; `nox -s NAME --reuse-venv=no` makes it anew, for instance after a GPU was
added to the machine.
"""

import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "tests"]

CPU_TORCH = "2.13.0"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROOMS = ("reference", "optimized", "harness", "reports", "tests", "noxfile.py")

# One of several places to look in: that it has no CPU build is no error, and its complaint would only alarm.
MAY_FAIL: dict[str, Any] = {"silent": True, "success_codes": range(256)}

INSTALLED_TORCH = "from importlib.metadata import distributions as d; print(*(t.version for t in d(name='torch')))"

INSTALLED_VERSIONS = (
    "from importlib.metadata import version; print('torch', version('torch'), 'triton', version('triton'))"
)

PEERS = ("liger-kernel>=0.6", "fla-core==0.6.*", "d9d==0.24.*")


def has_gpu() -> bool:
    """Returns whether this machine has an NVIDIA GPU, asked of the driver and not of torch, which is not there yet."""
    if Path("/dev/nvidia0").exists():
        return True
    command = shutil.which("nvidia-smi")
    return command is not None and subprocess.run([command, "-L"], capture_output=True, check=False).returncode == 0


def install(session: nox.Session, *extras: str) -> None:
    """Installs the torch that fits this machine, then the project with its extras, editable."""
    if not has_torch(session):
        install_torch(session)
    session.install("-e", f".[{','.join(extras)}]" if extras else ".")


def has_torch(session: nox.Session) -> bool:
    """Returns whether the environment holds a torch already; not by nox, whose `--install-only` skips what is run."""
    command = [str(Path(session.bin) / "python"), "-c", INSTALLED_TORCH]
    return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def install_torch(session: nox.Session) -> None:
    """Installs CUDA torch where there is a GPU and CPU torch where there is none, and says which was taken.

    The CPU build is looked for where pip is configured to look, then where uv knows PyTorch's own builds to be. Without
    either, torch as published is taken: it is right as well, only larger.
    """
    plain = not (sys.platform == "linux" and platform.machine() == "x86_64")
    if has_gpu() or plain:
        session.install("torch>=2.11")
        session.log("torch: the default build (%s)", "a GPU was found" if has_gpu() else platform.platform())
        return
    session.log("torch: looking for a CPU build")
    session.run_install("python", "-m", "pip", "install", "-q", f"torch=={CPU_TORCH}+cpu", **MAY_FAIL)
    if has_torch(session):
        session.log("torch: the CPU build that pip found")
        return
    session.install("uv")
    place = ("--python", str(Path(session.bin) / "python"))
    session.run_install(
        "uv", "pip", "install", "-q", *place, "--torch-backend", "cpu", f"torch=={CPU_TORCH}", **MAY_FAIL
    )
    if has_torch(session):
        session.log("torch: the CPU build that uv found")
        return
    session.log("torch: the default build, several GB, as neither pip nor uv found a CPU build")
    session.install(f"torch=={CPU_TORCH}")


@nox.session(default=False)
def attest(session: nox.Session) -> None:
    """The testbench itself, by default `run --profile quick`; `-- list` or any other command."""
    install(session, "report", "certify")
    command = session.posargs or ["run", "--profile", "quick"]
    session.log("attest %s", " ".join(command))
    logging.disable(logging.CRITICAL)  # the last word is the command's: the path of the report
    session.run("attest", *command)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests; what follows `--` goes to pytest."""
    install(session, "report", "certify", "dev")
    # Halves, of which what is left is taken over: a module stays in one process, which makes its fixtures once.
    lanes = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")
    session.run("python", "-m", "pytest", *lanes, "-m", "not slow and not gpu", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def healthy(session: nox.Session) -> None:
    """Thousands of legal executions, none of which may be called a fault: `nox -s healthy -- --runs 20000`."""
    install(session, "dev")
    session.run("python", "-m", "tests.variants.campaign", *(session.posargs or ["--runs", "5000"]), env=ONE_THREAD)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Other people's implementations on trial, and docs/peers.md from what was found: 10 to 20 minutes on a CPU."""
    install(session, "report", "peers")
    before = _versions(session)
    # These name newer versions of torch than the one at hand, which they run with: nothing of it may change.
    session.install("--no-deps", *PEERS)
    session.install("einops>=0.8")
    if _versions(session) != before:
        session.error(f"torch, triton: got {_versions(session)}, expected {before} as before the peers were installed")
    session.run("python", "-m", "tests.peers.campaign", *session.posargs, env=ONE_THREAD)


def _versions(session: nox.Session) -> str:
    """Returns the installed versions of torch and triton."""
    command = [str(Path(session.bin) / "python"), "-c", INSTALLED_VERSIONS]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Tests marked slow (compilers, longer campaigns, a Ray cluster), the cost of a budget, the speed of campaigns."""
    install(session, "report", "certify", "ray", "dev")
    session.run("python", "-m", "pytest", "-m", "slow and not gpu", *session.posargs, env=ONE_THREAD)
    session.run("python", "-m", "tests.benchmarks.budget_cost", env=ONE_THREAD)
    session.run("python", "-m", "tests.benchmarks.campaign_speed", env=ONE_THREAD)
    session.run("python", "-m", "tests.benchmarks.reference_speed", env=ONE_THREAD)
    session.run("python", "-m", "tests.gate.runs", env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format, by ruff; `nox -s lint -- --fix` mends what can be mended."""
    session.install("ruff>=0.12")
    session.run("ruff", "check", *session.posargs, *ROOMS)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), *ROOMS)


@nox.session
def types(session: nox.Session) -> None:
    """Types of all rooms, the tests and this file, by mypy in strict mode."""
    install(session, "report", "certify", "dev")
    session.run("mypy", *session.posargs)
    session.run("mypy", "noxfile.py")


@nox.session(default=False)
def codegen(session: nox.Session) -> None:
    """What every Triton kernel becomes on sm_90 and sm_100, on any machine: `nox -s codegen -- --quick` for a part."""
    install(session)
    session.run("attest", "codegen", *session.posargs, env=ONE_THREAD)


@nox.session(default=False, venv_backend="none")
def power(session: nox.Session) -> None:
    """How much the judge catches of the catalogue of seeded faults: `nox -s power -- --quick` for a part."""
    session.notify("attest", ["power", *session.posargs])


@nox.session(default=False)
def flash4(session: nox.Session) -> None:
    """FlashAttention 4 compiled for sm_90 over head widths, windows, sinks and groups, and the tests that need it."""
    install(session, "gpu", "dev")
    session.run("python", "-m", "tests.optimized.compile_flash4", *session.posargs, env=ONE_THREAD)
    files = [f"tests/optimized/{name}.py" for name in ("test_flash4", "test_flash4_refusals", "test_compiled_flash4")]
    session.run("python", "-m", "pytest", "-q", *files, env=ONE_THREAD)


@nox.session(default=False, venv_backend="none")
def campaign(session: nox.Session) -> None:
    """200 cases per operation and dtype for every Triton kernel, with a report: for a night."""
    session.notify("attest", ["run", "--profile", "full", "--candidate", "triton-*", *session.posargs])


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """The campaign on a CUDA device, judged and timed: `nox -s gpu`, or `nox -s gpu -- --rehearse` without one."""
    install(session, "report", "gpu", "peers")
    session.run("python", "-m", "harness.gpu", *session.posargs)


@nox.session(default=False, venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Ten minutes of random cases for one operation: `nox -s fuzz -- --op attention --minutes 60`."""
    session.notify("attest", ["fuzz", *(session.posargs or ["--op", "attention", "--minutes", "10"])])


@nox.session(default=False, venv_backend="none")
def bench(session: nox.Session) -> None:
    """Speed of the verified candidates of one operation: `nox -s bench -- --op gated_delta_rule`."""
    session.notify("attest", ["bench", *(session.posargs or ["--op", "attention"])])


@nox.session(default=False, venv_backend="none")
def report(session: nox.Session) -> None:
    """The page and the tables of the latest run: `nox -s report -- attest-out/DIR` for another one."""
    session.notify("attest", ["report", *(session.posargs or [latest_run(session)])])


@nox.session(default=False)
def gate(session: nox.Session) -> None:
    """The gate's cases beside the committed baseline; `-- --update` makes them the new one, `-- DIR` gates that run."""
    install(session, "report", "certify")
    folders = [word for word in session.posargs if not word.startswith("-")]
    options = [word for word in session.posargs if word.startswith("-")]
    if not folders:
        folders = [tempfile.mkdtemp(prefix="attest-gate-")]
        # What fails is told by the gate, which knows the known failures.
        session.run("attest", "run", "--profile", "gate", "--out", folders[0], success_codes=[0, 1])
    session.run("attest", "gate", folders[0], "--baseline", "reports/baselines", *options)


def latest_run(session: nox.Session) -> str:
    """Returns the folder of the latest run, by its name, which is its time."""
    runs = sorted(path.parent for path in Path("attest-out").glob("*/records.jsonl"))
    if not runs:
        session.error("attest-out/: no run there yet; make one with: nox -s attest")
    return str(runs[-1])
