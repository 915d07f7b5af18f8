"""Train on Moments in Time, 339 classes; labels: converters/moments.py, from trainingSet.csv and validationSet.csv.

    python train/train_moments.py --network mtnet_s --dataset data/Moments_in_Time_videos --gpus 4

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train moments`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("moments"))
