"""A process for each GPU of this machine, from one command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vidseg.engine.distributed import choose_gpus
from vidseg.engine.options import DeviceOptions

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "launch_command", "launch_processes"]


def choose_device(options: DeviceOptions) -> torch.device:
    """Join the group of processes and return the device that this process computes on.

    `--gpus` of several GPUs has started a process for each of them before (`launch_processes`).

    Raises:
        ValueError: `gpus` names a GPU that does not exist.
    """
    import torch

    from vidseg.engine import distributed

    if options.device is not None or options.gpus is None or "RANK" in os.environ:
        return distributed.process_device(options.device)
    chosen = choose_gpus(options.gpus, present=torch.accelerator.device_count())
    kind = torch.accelerator.current_accelerator(check_available=True)
    return distributed.process_device(f"{kind.type}:{chosen[0]}" if chosen and kind is not None else "cpu")


def launch_processes(gpus: str | None) -> int | None:
    """Run this command line again, once on each GPU, where there are several to use; wait for all.

    Args:
        gpus: as given with --gpus.

    Returns:
        Exit status of the processes; None where this process itself shall do the work: one GPU or none, or it has been
        started by torchrun already.

    Raises:
        ValueError: `gpus` names what is not there.
    """
    import torch

    if "RANK" in os.environ:
        return None
    chosen = choose_gpus(gpus, present=torch.accelerator.device_count())
    if len(chosen) < 2:
        return None
    command, environment = launch_command(chosen, sys.argv, os.environ)
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it ends the processes on the GPUs; killed, it would leave them
            process.wait()
            raise


def launch_command(
    gpus: Sequence[int], words: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run `words` once on each of `gpus`, numbered among those that are visible now."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(gpus) + 1)]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(len(gpus)),
        *words,
    ]
    return command, {**environment, "CUDA_VISIBLE_DEVICES": ",".join(names[number] for number in gpus)}
