"""A training program without training, for tests of the search: it writes the files of a run as its options say.

    python search_work.py --config OUT/trial.json --out OUT --resume     as `vidseg train`
    python search_work.py test OUT                                       as `vidseg test`
    python search_work.py search SPACE DATA OUT [JOBS]                   a search with this program, to be killed

The score rises over the epochs to its largest value at lr=0.01. Files in the folder of the data set steer it: `block`
holds the lr from which on a run stops after its second validation until it is killed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

FAILURES = {
    0.91: "epoch 1, batch 3: the loss is nan; try a lower learning rate than 9, --warmup-epochs or --clip-norm",
    0.92: "epoch 1, batch 0: out of memory for an input of (1, 3, 8, 8, 8) on cpu; try a smaller --batch-size",
    0.93: "the disk is on fire",
}
"""Message of the run for a value of momentum."""
REFUSED, KILLED = 0.94, 0.95


def final_score(lr: float, seed: int = 1) -> float:
    """Score of the last epoch, below 1."""
    return round(1 / (1 + (math.log10(lr) + 2) ** 2) + 0.001 * seed, 6)


def train(options: dict, out: Path) -> int:
    (out / "options.json").write_text("{}")
    with (out / "starts").open("a") as file:
        file.write(f"{os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
    momentum = options.get("momentum")
    if momentum == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if momentum in FAILURES or momentum == REFUSED:
        print("Traceback\n", file=sys.stderr)
        message = FAILURES.get(momentum, "momentum=0.94 is not for this network")
        print(f"vidseg train: {message}", file=sys.stderr)
        return 2 if momentum == REFUSED else 1
    lr, data = options["lr"], Path(options["dataset"])
    block = data / "block"
    limit = float(block.read_text()) if block.is_file() else math.inf
    table = out / "val_results_s0000.csv"
    table.write_text("Epoch,Top1,Top5,Loss\n")
    final = final_score(lr, options.get("seed", 1))
    for epoch in range(1, options["epochs"] + 1):
        score = final * epoch / options["epochs"]
        with table.open("a") as file:
            file.write(f"{epoch},{score},1.0,{1 - score}\n")
        if epoch == 2 and lr >= limit:
            (out / "blocked").write_text(str(os.getpid()))
            signal.pause()
        if (data / "meet").is_file():  # wait until another trial is here too
            (out / "here").touch()
            while len(list(out.parent.glob("*/here"))) < 2:
                pass
    return 0


def fake_program():
    from vidseg.cli.train import searched_program

    here = (sys.executable, str(Path(__file__).resolve()))
    return replace(searched_program(""), command=here, test=(*here, "test"))


def fake_search(path, data, out, **options):
    """Search with this program; returns the results."""
    from vidseg.search import SearchOptions, bound_space, read_space, search

    program = fake_program()
    space = bound_space(read_space(path), path, program)
    return search(space, data, program=program, options=SearchOptions(**options), out=out)


def main(words: list[str]) -> int:
    if words[0] == "search":
        fake_search(words[1], words[2], words[3], jobs=int(words[4]) if len(words) > 4 else None)
        return 0
    if words[0] == "test":
        run = Path(words[1])
        last = (run / "val_results_s0000.csv").read_text().splitlines()[-1].split(",")
        test = {"top1": float(last[1]) - 0.1, "top5": 1.0, "loss": float(last[3]), "selected_on": False}
        (run / "test.json").write_text(json.dumps(test))
        return 0
    given = dict(zip(words[:-1:2], words[1::2], strict=True))
    return train(json.loads(Path(given["--config"]).read_text())["options"], Path(given["--out"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
