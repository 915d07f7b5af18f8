"""Train on the moving shapes of `vidseg synth`: a quarter-width SRTG network that two CPU cores train in minutes.

    python train/train_synth.py demo/data --out demo/run

Every option of `vidseg train` is there. Squeeze and Recursion stands before the addition, which learns sooner from
scratch (vidseg/tasks/recognition/recipes.py).
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("synth"))
