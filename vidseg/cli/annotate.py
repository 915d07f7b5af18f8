"""`vidseg annotate`: label the videos of a data set in a browser."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Label the videos of a data set in a browser: classes, sets of classes and segments, with keyboard or mouse.

    The command prints the address of the page. Each change is written to catalog.db at once, with author and time, and
    can be undone in a later session. Two people at once do not overwrite each other.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of the data set, with frame databases."""
    suggest: str | None = None
    """Folder of a run, one of its checkpoints or a file of weights: its predictions are suggestions to accept or
    correct."""
    features: Path | None = None
    """Folder of <video>.npy, for suggestions of a model that takes features."""
    background: str | None = None
    """Class of the parts outside all segments, for videos that are labeled frame by frame."""
    videos: Path | None = None
    """Folder to search for the source videos, which the page plays; default: where the conversion has read them."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every address of this machine, with a token."""
    port: int = 8001
    """Port; 0: a free one."""
    token: str | None = None
    """Token that browsers must send; default: the environment variable VIDSEG_TOKEN, else none on a loopback address
    and a new one elsewhere."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Serve until a signal."""
        from vidseg.labels.annotation import Annotations
        from vidseg.serve.annotation_application import make_annotation_application
        from vidseg.serve.running import RunningServer, choose_token, start_logging
        from vidseg.serve.suggestions import Suggester

        annotations = Annotations(self.data, background=self.background)
        suggester = None
        if self.suggest is not None:
            trained = load_model(self.suggest, self.model, self.input)
            suggester = Suggester(trained, root=self.data, features=self.features, left_out=self.background)
        given = self.token or os.environ.get("VIDSEG_TOKEN") or None
        token = choose_token(self.host, given)
        if self.videos is not None and not self.videos.is_dir():
            raise FileNotFoundError(f"{self.videos}: folder not found")
        app = make_annotation_application(annotations, suggester=suggester, videos=self.videos, token=token)
        server = RunningServer(app, host=self.host, port=self.port)
        start_logging()
        print(server.url + "/" + ("" if token is None or token == given else f"#token={token}"), flush=True)
        server.run()
        return 0
