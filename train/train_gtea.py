"""Train and test segmentation networks on GTEA: 28 videos, 11 classes, 15 labels a second, leave-one-subject-out.

    python train/train_gtea.py data/gtea --network mstcn

Published settings are the defaults (vidseg/tasks/segmentation/recipes.py); the table is the mean of the four splits.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("gtea"))
