"""Train on the moving shapes of `vidseg synth`: a quarter-width SRTG network that two CPU cores train in minutes.

    python train/train_synth.py demo/data --out demo/run

The options are those of `vidseg train`. The network applies Squeeze and Recursion before the residual addition
(placement=mid), which trains faster from random weights (vidseg/tasks/recognition/recipes.py).
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("synth"))
