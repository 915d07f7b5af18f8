r"""Train on Kinetics-200, 400, 600 or 700 (--variant); labels: converters/kinetics.py.

    python train/train_kinetics.py --network srtg_r3d_34 --dataset data/Kinetics_videos \
        --variant 700 --clip-size 224 --gpus 4

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train kinetics`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("kinetics"))
