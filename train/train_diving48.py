r"""Train on Diving-48, 48 classes; labels: converters/diving48.py, from the Diving48_V2 JSON files.

    python train/train_diving48.py --network srtg_r3d_34 --dataset data/Diving48_videos \
        --pretrained-3d HACS.pth --fine-tune True

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train diving48`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("diving48"))
