"""Train a streaming network end to end from pixels on videos with frame labels, such as GTEA or 50Salads.

    python converters/gtea.py data/gtea
    python train/train_stream.py data/gtea --network etesvs --split split1
    python train/train_stream.py data/50salads --recipe 50salads --network memory_tcn --size 112

Published settings are the defaults (vidseg/tasks/streaming/recipes.py); `vidseg train stream` is the same program. The
data set needs frame databases (`vidseg convert`) beside its labels.
"""

import sys

from vidseg.cli.train import train_program

if __name__ == "__main__":
    sys.exit(train_program("stream"))
