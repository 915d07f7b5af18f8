"""Train detection networks on ActivityNet-1.3: 200 activities in 10,024 training videos, mAP at IoU 0.5 to 0.95.

    python train/train_activitynet.py data/activitynet --network etad

Published settings are the defaults (vidseg/tasks/detection/recipes.py): features of the whole video, resized to a fixed
number of columns. The published results take the classes of ETAD's and BMN's proposals from --class-scores.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("activitynet"))
