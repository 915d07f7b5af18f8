"""Train and test segmentation networks on 50Salads: 50 videos, 19 classes, 30 labels a second of which every second
one is used, five splits by subject.

    python train/train_50salads.py data/50salads --network asformer --splits split1

Published settings are the defaults (vidseg/tasks/segmentation/recipes.py). Scores are at all 30 frames a second.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("50salads"))
