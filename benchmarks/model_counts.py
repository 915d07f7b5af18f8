"""Parameters and multiply-adds of every network at its own input; --write stores them for `vidseg models`.

python benchmarks/model_counts.py --write
"""

import argparse
import re
from pathlib import Path

from vidseg.models import _counts, list_models

FILE = Path(_counts.__file__)


def main() -> None:
    """Count, print, and write with --write; networks that are stored already are counted again with --all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the counts into vidseg/models/_counts.py")
    parser.add_argument("--all", action="store_true", help="count stored networks again")
    given = parser.parse_args()
    lines = []
    for name in list_models():
        stored = None if given.all else _counts.COUNTS.get(name)
        parameters, macs = stored or _counts.count_network(name)
        print(f"{name:28} {parameters:>15,} {macs:>10,} million", flush=True)
        lines.append(f'    "{name}": ({parameters}, {macs}),\n')
    if given.write:
        text = re.sub(
            r"(COUNTS: [^\n]* = \{\n?).*?(\}\n)", lambda found: found[1] + "".join(lines) + found[2], FILE.read_text(),
            count=1, flags=re.DOTALL,
        )  # fmt: skip
        FILE.write_text(text)


if __name__ == "__main__":
    main()
