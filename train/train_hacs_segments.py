"""Train and test detection networks on HACS Segments: 200 activities, 37,613 training videos, mAP at IoU 0.5 to 0.95.

    python train/train_hacs_segments.py data/hacs_segments --network tridet

Published settings are the defaults (vidseg/tasks/detection/recipes.py): SlowFast features, one column every eight
frames at 15 frames per second. ActionFormer needs class scores of the videos: --class-scores FILE.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("hacs_segments"))
