"""Train and test detection networks on THUMOS-14: 20 sports, 200 training and 213 test videos, mAP at IoU 0.3 to 0.7.

    python train/train_thumos14.py data/thumos14 --network actionformer

Published settings are the defaults (vidseg/tasks/detection/recipes.py): I3D features, one column every four frames.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("thumos14"))
