r"""Train on HMDB-51, 51 classes, split 1; labels: converters/hmdb51.py, from the test_split files.

    python train/train_hmdb51.py --network srtg_r3d_34 --dataset data/HMDB51_videos \
        --pretrained-3d HACS.pth --fine-tune True

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train hmdb51`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("hmdb51"))
