r"""Train on UCF-101, 101 classes, split 1; labels: converters/ucf101.py, from ucfTrainTestlist.

    python train/train_ucf101.py --network srtg_r3d_34 --dataset data/UCF101_videos \
        --pretrained-3d HACS.pth --fine-tune True

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train ucf101`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("ucf101"))
