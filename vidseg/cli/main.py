"""The console commands `vidseg` and `dataset2database`.

Each command is a module of this folder with a dataclass `Command`: its docstring and its fields' docstrings are the
help text, `run()` does the work and returns the exit status: 0, 1 (some items failed, each named), 2 (wrong use).
Only the module asked for is imported, and heavy packages within `run()`: help is instant.
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

__all__ = ["dataset2database", "main", "run_prepared", "run_program"]

COMMANDS = {
    "convert": "video files to frame databases, and back",
    "check": "verify frame databases, upgrade or repair them",
    "info": "describe a database, a data set or a checkpoint",
    "labels": "put classes, splits and segments into a data set's catalog",
    "synth": "make videos with known actions, for trying things out",
    "train": "train a model",
    "test": "evaluate a trained model",
    "predict": "name the classes of video files, with a trained model",
    "extract-features": "features of long videos, from a trained recognition network",
    "score": "segmental scores of predicted frame labels, from files",
    "stats": "mean and deviation of a data set's frames, weights of its classes",
    "plot": "pictures: contact sheet, curves, confusion matrix, segments, labels",
    "profile": "what a model costs: parameters, multiply-adds, latency, memory",
    "list": "the models there are",
    "env": "versions of everything that matters, and what loaded",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `vidseg`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if words else 2
    if words[0] in {"-V", "--version"}:
        import vidseg

        print(f"vidseg {vidseg.__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"vidseg: there is no command {name!r}{hint}\n\n{_overview()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"vidseg.cli.{name.replace('-', '_')}")
    if hasattr(module, "prepare"):
        return run_prepared(f"vidseg {name}", words[1:], module.prepare)
    return _run(f"vidseg {name}", module.Command, words[1:])


def dataset2database(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `dataset2database SRC DST`: another name of `vidseg convert`."""
    from vidseg.cli.convert import Command

    return _run("dataset2database", Command, list(sys.argv[1:] if arguments is None else arguments))


def run_program(command: Any, arguments: Sequence[str] | None = None) -> int:
    """Run one of the programs in converters/ or train/, whose options are the dataclass `command`."""
    return _run(sys.argv[0], command, list(sys.argv[1:] if arguments is None else arguments))


def run_prepared(program: str, words: list[str], prepare: Callable[..., Any], name: str | None = None) -> int:
    """Run a command whose defaults depend on its words, as `vidseg.cli.train.prepare` decides."""
    try:
        chosen, command, default, left = prepare(words, name)
    except (ValueError, FileNotFoundError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return _run(program if name or not chosen else f"{program} {chosen}", command, left, default=default)


def _run(program: str, command: Any, words: list[str], *, default: Any = None) -> int:
    import tyro

    chosen = {} if default is None else {"default": default}
    try:
        options = tyro.cli(
            command, prog=program, args=_spelled_out(command, words), config=(tyro.conf.OmitArgPrefixes,), **chosen
        )
        _start_logging()
        return int(options.run())
    except SystemExit as stop:  # tyro has shown the help (0) or said what is wrong (2)
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, ImportError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1


def _spelled_out(command: Any, words: list[str]) -> list[str]:
    """Let `--fine-tune True` and `--fine-tune=False` mean --fine-tune and --no-fine-tune."""
    flags = {name.replace("_", "-") for option in _alternatives(command) for name in _flags(option)}
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--").replace("_", "-")
        if equals and name.startswith("--") and key in flags and value.lower() in {"true", "false"}:
            result.append(f"--{key}" if value.lower() == "true" else f"--no-{key}")
        elif result and result[-1].startswith("--") and word.lower() in {"true", "false"}:
            key = result[-1].removeprefix("--").replace("_", "-")
            if key in flags:
                result[-1] = f"--{key}" if word.lower() == "true" else f"--no-{key}"
            else:
                result.append(word)
        else:
            result.append(word)
    return result


def _alternatives(command: Any) -> list[Any]:
    """The dataclasses of a command: itself, or the members of a union of subcommands."""
    if get_origin(command) is None:
        return [command]
    return [found for part in get_args(command) for found in _alternatives(part) if dataclasses.is_dataclass(found)]


def _flags(option: Any) -> list[str]:
    """Names of the options that are true or false, those of groups of options included."""
    names = []
    for field in dataclasses.fields(option):
        if dataclasses.is_dataclass(field.default_factory):
            names += _flags(field.default_factory)
        elif field.type in {bool, "bool"}:
            names.append(field.name)
    return names


def _start_logging() -> None:
    import coloredlogs

    coloredlogs.install(
        level="INFO", fmt="%(asctime)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S", isatty=sys.stderr.isatty()
    )


def _overview() -> str:
    lines = ["usage: vidseg COMMAND [OPTIONS]", "", "Commands:"]
    lines += [f"  {name:16} {text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "`vidseg COMMAND --help` shows a command's options. `vidseg --version`."])


if __name__ == "__main__":
    sys.exit(main())
