"""The console commands `vidseg` and `dataset2database`.

Each command is a module of this folder with a dataclass `Command`: its docstring and its fields' docstrings are the
help text, `run()` does the work and returns the exit status: 0, 1 (some items failed, each named), 2 (wrong use).
Ctrl-C ends a command with status 130, SIGTERM with 143.
Only the module asked for is imported, and heavy packages within `run()`: help is instant.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vidseg.cli.interruption import Interrupted, run_interruptible

__all__ = ["dataset2database", "main", "run_prepared", "run_program"]

COMMANDS = {
    "learn": "from a folder of videos to a tested network and a report",
    "convert": "convert video files to frame databases, and back",
    "check": "verify frame databases, upgrade or repair them",
    "info": "describe a run, a checkpoint, a data set or a frame database",
    "labels": "put classes, splits and segments into a data set's catalog",
    "synth": "make videos with known actions, for tests and demos",
    "train": "train a model",
    "search": "search the best values of options of `vidseg train`; compare them over seeds",
    "probe": "fit a linear classifier to the features of a frozen network",
    "test": "evaluate a trained model",
    "predict": "classes of videos, labels of frames or streams, with a trained model",
    "extract-features": "extract features of long videos with a trained recognition network",
    "extract-flow": "optical flow, motion vectors or residuals of videos, in databases beside the frames",
    "annotate": "label the videos of a data set in a browser",
    "compress": "prune or quantize a trained network",
    "export": "a trained model for ONNX Runtime, OpenVINO, AOTInductor, TensorRT or Triton",
    "serve": "serve trained models: web page, HTTP, WebSocket",
    "client": "send videos to a server",
    "score": "scores of predictions in files; fusion of several networks",
    "compare": "scores of several tested runs side by side, gains by class, significance",
    "stats": "mean and standard deviation of frames, weights of classes",
    "plot": "draw contact sheets, curves, confusions, calibration, segments, heat maps; reports",
    "profile": "parameters, multiply-adds, latency and memory of networks",
    "models": "networks with their cost, input, published score and weights; also spelled list",
    "env": "versions of packages and native parts",
}

_EXTRAS = dict.fromkeys(("fastapi", "httpx", "multipart", "pydantic", "starlette", "uvicorn", "websockets"), "serve")
"""Extra of the package that has a module."""

ALIASES = {"list": "models"}
"""Other names of commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `vidseg`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_interruptible("vidseg", lambda: _main(words), last=arguments is None)


def _main(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if words else 2
    if words[0] in {"-V", "--version"}:
        import vidseg

        print(f"vidseg {vidseg.__version__}")
        return 0
    name = ALIASES.get(words[0], words[0])
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
    words = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        from vidseg.cli.convert import Command

        return _run("dataset2database", Command, words)

    return run_interruptible("dataset2database", run, last=arguments is None)


def run_program(command: Any, arguments: Sequence[str] | None = None) -> int:
    """Run one of the programs in converters/ or train/, whose options are the dataclass `command`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_interruptible(sys.argv[0], lambda: _run(sys.argv[0], command, words), last=arguments is None)


def run_prepared(program: str, words: list[str], prepare: Callable[..., Any], name: str | None = None) -> int:
    """Run a command whose defaults depend on its words, as `vidseg.cli.train.prepare` decides."""

    def run() -> int:
        try:
            prepared = prepare(words, name)
        except (ValueError, TypeError, OSError) as error:
            print(f"{program}: {_sentence(error)}", file=sys.stderr)
            return 2
        shown = program if name or not prepared.name else f"{program} {prepared.name}"
        return _run(shown, prepared.command, prepared.words, default=prepared.default, run=prepared.run)

    return run_interruptible(program, run)


def _run(
    program: str,
    command: Any,
    words: list[str],
    *,
    default: Any = None,
    run: Callable[[Any], int] | None = None,
) -> int:
    from vidseg.cli.parsing import parse

    try:
        options = parse(program, command, words, default=default)
        _start_logging()
        return int(options.run() if run is None else run(options))
    except SystemExit as stop:  # tyro has shown the help (0) or said what is wrong (2)
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted):
            raise
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, ImportError) as error:
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        return 1


def _sentence(error: BaseException) -> str:
    """Return the message of an error; one of the system begins with the name of the file."""
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        return str(error) if extra is None else f"{error}; pip install 'vidseg[{extra}]'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
