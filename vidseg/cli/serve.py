"""`vidseg serve`: trained models behind HTTP and WebSocket, with a web page."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model
from vidseg.serve.serve_options import ReplicaOptions, ServeOptions

if TYPE_CHECKING:
    from vidseg.engine.trained import TrainedModel

__all__ = ["Command"]

_TOKEN = "VIDSEG_TOKEN"


@dataclass(frozen=True)
class Command(ServeOptions):
    """Serve trained models: a web page, predictions and jobs over HTTP, streams over WebSocket.

    The command prints the address of the page. /docs describes the interface, /health and /metrics are for operators;
    the log is one JSON object per line on stderr. SIGTERM ends open requests, saves streams, and lets jobs wait for the
    next start.
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN|ARTEFACT...")] = field(kw_only=True)
    """Folders of runs, checkpoints or files of weights, as NAME=PATH or PATH; the name of a PATH is that of the folder
    or file."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every address of this machine, with a token."""
    port: int = 8000
    """Port; 0: a free one."""
    token: str | None = None
    """Token that clients must send; default: the environment variable VIDSEG_TOKEN, else none on a loopback address and
    a new one elsewhere."""
    compute_threads: int | None = None
    """Threads of one forward pass; default: torch's."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    replicas: ReplicaOptions = field(default_factory=ReplicaOptions)

    def run(self) -> int:
        """Serve until a signal."""
        from vidseg.serve.running import choose_token, start_logging

        named = _named(self.models)
        if len(named) > 1 and (self.model.network or self.model.classes or self.model.network_option):
            raise ValueError("--network, --network-option and --classes describe one model; serve it alone")
        token = choose_token(self.host, self.token or os.environ.get(_TOKEN) or None)
        options = ServeOptions(**{each.name: getattr(self, each.name) for each in dataclasses.fields(ServeOptions)})
        load = functools.partial(_load, named, self.model, self.input, self.compute_threads)
        server = self._server(load, options, token)
        start_logging()
        given = token is not None and token in (self.token, os.environ.get(_TOKEN))
        print(server.url + "/" + ("" if token is None or given else f"#token={token}"), flush=True)
        server.run()
        return 0

    def _server(self, load: Callable[[], dict[str, TrainedModel]], options: ServeOptions, token: str | None) -> _Server:
        if self.replicas.ray:
            from vidseg.serve.ray_deployment import RayServer

            return RayServer(load, options, self.replicas, token=token, host=self.host, port=self.port)
        from vidseg.serve.application import make_application
        from vidseg.serve.running import RunningServer

        return RunningServer(make_application(load(), options, token=token), host=self.host, port=self.port)


class _Server(Protocol):
    url: str

    def run(self) -> None:
        """Serve until a signal."""


def _load(
    named: dict[str, str], model: ModelOptions, changes: InputChanges, threads: int | None
) -> dict[str, TrainedModel]:
    """Load the models; also called in replicas on other machines."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return {name: load_model(path, model, changes) for name, path in named.items()}


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Return the path of each model by its name."""
    named: dict[str, str] = {}
    if not models:
        raise ValueError("name at least one run, checkpoint or file of weights to serve")
    for word in models:
        name, equals, path = word.partition("=")
        if not equals or "/" in name:
            path = word
            name = Path(word).resolve().stem if Path(word).is_file() else Path(word).resolve().name
        if not name or not all(one.isalnum() or one in "-_." for one in name):
            raise ValueError(f"{word}: the name {name!r} must have letters, digits and - _ . only; give NAME=PATH")
        if name in named:
            raise ValueError(f"{word}: another model has the name {name}; give NAME=PATH")
        named[name] = str(Path(path).resolve())
    return named
