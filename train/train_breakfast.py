"""Train and test segmentation networks on Breakfast: 1712 videos, 48 classes, 15 labels a second, four splits.

    python train/train_breakfast.py data/breakfast --network diffact --out results/breakfast

Published settings are the defaults (vidseg/tasks/segmentation/recipes.py).
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("breakfast"))
