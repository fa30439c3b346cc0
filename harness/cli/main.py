"""Parses the command line and turns every outcome into its exit code.

0: all verdicts good; 1: a kernel failed; 2: wrong usage, one line on stderr; 3: the testbench itself failed;
130: interrupted, as shells expect of Ctrl-C.
"""

import argparse
import errno
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from harness.cli import bench, certify, check, codegen, describe, fuzz, gate, listing, merge, power, replay, report, run
from harness.errors import TestbenchError, UsageError, nearest
from harness.store import StoreWarning

__all__ = ["COMMANDS", "main"]

COMMANDS = (run, listing, describe, fuzz, check, replay, bench, report, certify, codegen, power, gate, merge)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left on the device, beyond the quota, file too large."""

_NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed")
"""What torch says, in a RuntimeError, of a tensor that does not fit."""


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line and raises instead of leaving."""

    def error(self, message: str) -> NoReturn:
        """Raises the message; a wrong command gets the nearest right one."""
        if "invalid choice: " in message and "argument COMMAND" in message:
            got = message.split("invalid choice: ")[1].split("'")[1]
            names = [module.NAME for module in COMMANDS]
            raise UsageError(f"command: got {got!r}, expected one of {', '.join(names)}{nearest(got, names)}")
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = _Parser(
        prog="attest",
        description="Is this difference a bug or noise? Judges attention kernels against a float64 reference.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in COMMANDS:
        each = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example: {module.EXAMPLE}",
            allow_abbrev=False,
        )
        module.add_arguments(each)
        each.set_defaults(execute=module.execute)
    return parser


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments of a command.

    Raises:
        UsageError: they are wrong; what the command does not know is named beside what it knows.
    """
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        known = [name for name in commands.choices[parsed.command]._option_string_actions if name.startswith("--")]
        hint = nearest(unknown[0].partition("=")[0], known)
        raise UsageError(f"{parsed.command}: got {unknown[0]!r}, expected options of {', '.join(known)}{hint}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: without the program's name; those of the process if None.
    """
    warnings.showwarning = _show_warning
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal ends a campaign as Ctrl-C does
            signal.signal(name, signal.default_int_handler)
    try:
        parsed = _parsed(arguments)
        execute: Callable[[argparse.Namespace], int] = parsed.execute
        return execute(parsed)
    except UsageError as error:
        return _say(error, 2)
    except TestbenchError as error:
        return _say(error, 3)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> int:
    """Says what went wrong with the testbench itself; a full disk or memory is no fault of its code."""
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror}; what was written before is kept, make room and go on", 3)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return _say("the case needs more memory than there is, expected a smaller one", 3)
    traceback.print_exc()
    return _say("this is a fault of the testbench itself, please report the lines above", 3)


def _say(message: object, code: int) -> int:
    line = " ".join(str(message).split())
    sys.stderr.write(f"attest: {line}\n")
    return code


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    if issubclass(category, StoreWarning):
        _say(message, 0)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))
