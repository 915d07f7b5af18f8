"""Train ETAD on ActivityNet-1.3 end to end: a video encoder on 128 snippets of each video, gradients of 30 % of them.

    python train/train_activitynet_pixels.py data/activitynet --encoder-weights tsp.pth --class-scores cuhk.json

Published settings are the defaults (vidseg/tasks/detection/recipes.py): the data set has frame databases, with 15
frames a second and a short side of 128 pixels or more; the encoder is R(2+1)D-34 with the weights of TSP.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("activitynet_pixels"))
