"""The entry point: which command, and what a person sees when something is wrong."""

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ft_jax.outside.names import check_name, cut, escaped

BAD_INPUT, FAILED, STOPPED = 2, 1, 130

FILE_ERRORS = FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError | PermissionError

# Commands are imported when asked for, so that listing methods doesn't wait for models or checkpoints.
COMMANDS = {
    "run": ("ft_jax.cli.run", "train an experiment; any of its fields can be overridden"),
    "sweep": ("ft_jax.cli.sweep", "try values of an experiment's fields, cross-validated; the winner runs"),
    "cache-teacher": ("ft_jax.cli.cache_teacher", "write a teacher's likeliest classes for an experiment's rows"),
    "write-answers": ("ft_jax.cli.write_answers", "have a teacher answer prompts, for a student to learn from"),
    "choose": ("ft_jax.cli.choose", "find which adapter or network suits a task, or a file of your own"),
    "list": ("ft_jax.cli.experiments", "list the experiments"),
    "data": ("ft_jax.cli.data", "show what is understood of files: columns, classes, lengths, tokens with loss"),
    "methods": ("ft_jax.cli.methods", "list the methods, or show one method's documentation"),
    "predict": ("ft_jax.cli.serving.predict", "a run's classes for texts or a file"),
    "generate": ("ft_jax.cli.serving.generate", "text from a run's model"),
    "evaluate": ("ft_jax.cli.serving.evaluate", "measure a run's model on a data set"),
    "export": ("ft_jax.cli.serving.export", "write a run's model for peft, transformers or sentence-transformers"),
    "stream": ("ft_jax.cli.stream", "answer lines as they come, and learn from those that have a label"),
    "report": ("ft_jax.cli.reports", "write the report of one or more runs"),
    "bench": ("ft_jax.cli.bench", "run benchmarks, the peers beside them; a JSON line each"),
    "reproduce": ("ft_jax.cli.reproduce", "measure published numbers again, ours beside the paper's"),
    "fetch": ("ft_jax.cli.fetch", "fetch an asset to this computer and print its path"),
    "fuse": ("ft_jax.cli.fuse", "fuse and calibrate the predictions of several runs, and score them"),
    "merge": ("ft_jax.cli.merge", "merge checkpoints, or LoRA adapters, into one"),
    "lorahub": ("ft_jax.cli.lorahub", "mix adapters of other tasks for one of your own, from a few examples"),
    "parity": ("ft_jax.cli.parity", "compare a checkpoint with transformers and torch"),
}


EXTRAS = {
    "optuna": "search",
    "cmaes": "search",
    "pyarrow": "parquet",
    "PIL": "images",
    "tensorflow_datasets": "tfds",
    "mnist1d": "mnist1d",
}
"""Packages that a part of ft_jax needs, and the extra that brings each."""


class RunFailed(Exception):
    """A run that began and did not get to its end; the message says what to change."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError, in one sentence, in place of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def place(text: str) -> Path:
    """What ``--out`` says, as the type of an argument: a place to write to, whose name is what it seems."""
    try:
        check_name("the place to write to", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    0 for success, 2 for bad input, 1 for a run that failed, 130 for one that was stopped. What went wrong is
    one sentence on stderr; ``--debug`` adds the traceback.

    Args:
      argv: the words after ``ft-jax``; those of the process by default.

    Example:
      >>> main(["methods", "adaptive.plateau"])  # doctest: +ELLIPSIS
      adaptive.plateau(...
      0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _command(words)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        bad_input = _is_bad_input(error)
        hint = "" if debug or bad_input or isinstance(error, RunFailed) else " (--debug shows where)"
        print(f"error: {sentence(error)}{hint}", file=sys.stderr)
        return BAD_INPUT if bad_input else FAILED


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from ft_jax import __version__

        print(f"ft_jax {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; use one of {', '.join(COMMANDS)}")
    return importlib.import_module(COMMANDS[name][0]).command(rest)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {escaped(str(message))}", file=sys.stderr)


def usage() -> str:
    """The help of ``ft-jax`` itself."""
    lines = [f"  ft-jax {name:14}{said}" for name, (_, said) in COMMANDS.items()]
    return "\n".join(
        [
            "Fine-tuning methods as values that compose, in JAX.",
            "",
            *lines,
            "",
            "ft-jax COMMAND --help says more; --debug shows the traceback of an error.",
        ]
    )


def _is_bad_input(error: BaseException) -> bool:
    """Whether an error tells a person what to change, rather than that the program broke."""
    if isinstance(error, KeyError):
        # A missing key of some dict is no sentence.
        return " " in str(error.args[0] if error.args else "")
    if isinstance(error, ModuleNotFoundError):
        return error.name in EXTRAS
    return isinstance(error, ValueError | FILE_ERRORS)


def sentence(error: BaseException) -> str:
    """An error's message on one line, without the quotes that KeyError puts round it.

    Example:
      >>> sentence(KeyError("no method is called 'x'"))
      "no method is called 'x'"
    """
    bad_input = _is_bad_input(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"this needs {error.name}, which is not installed; pip install 'ft_jax[{EXTRAS[error.name]}]'"
    message = str(error.args[0]) if isinstance(error, KeyError) and bad_input else str(error)
    line = cut(escaped(" ".join(message.split())), 1000)
    if line and (bad_input or isinstance(error, RunFailed) or getattr(error, "one_sentence", False)):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
