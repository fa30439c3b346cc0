"""A step that runs a program, to be planted into a campaign."""

from harness.gpu.steps import Step

__all__ = ["script"]


def script(name: str, program: str, *, resume: str | None = None) -> Step:
    words = ("-c", program)
    return Step(name=name, words=words, minutes=1, resume=None if resume is None else ("-c", resume))
