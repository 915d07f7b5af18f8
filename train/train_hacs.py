r"""Train on HACS Clips v1.1, 200 classes; labels: converters/hacs.py, from HACS_clips_v1.1.csv.

    python train/train_hacs.py --network srtg_r3d_34 --dataset data/HACS_videos \
        --clip-size 324 --gpus 4 --batch-size 48

The published settings (vidseg/tasks/recognition/recipes.py) are the defaults, as in `vidseg train hacs`.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("hacs"))
