"""Train and test segmentation networks on GTEA: 28 videos, 11 classes, 15 labels a second, leave-one-subject-out.

    python train/train_gtea.py data/gtea --model mstcn

Published settings are the defaults (vidseg/tasks/segmentation/recipes.py); the table is the mean of the four splits.
"""

import sys

from vidseg.cli.train_segmentation import segmentation_program

if __name__ == "__main__":
    sys.exit(segmentation_program("gtea"))
