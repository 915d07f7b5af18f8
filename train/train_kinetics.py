r"""Train on Kinetics-200, 400, 600 or 700 (--variant); labels: converters/kinetics.py.

    python train/train_kinetics.py --network srtg_r3d_34 --dataset data/Kinetics_videos \
        --variant 700 --clip-size 224 --gpus 4

The published settings are the defaults (vidseg/engine/presets.py); `vidseg train kinetics` is the same program.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("kinetics"))
