"""Training in a process of its own: ``[--kill-before NAME:STEP] [--devices N] RUN…``.

A RUN is a configuration, or ``CONFIG:resume``; ``--kill-before attention:3`` kills the process
when two steps of the run in a folder ``attention`` are done and the third begins.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import short_backbones  # noqa: F401
import tensorflow as tf

import delg.training.finalize
from delg.training.batches import Batch
from delg.training.settings import read_train_settings
from delg.training.stages import train_in_stages
from delg.training.trainer import Trainer


def kill_before(name: str, step: int) -> None:
    train = Trainer.train

    def train_or_die(trainer: Trainer, batch: Batch) -> dict[str, float]:
        if trainer.step == step - 1 and trainer.training_model.settings.out.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(trainer, batch)

    Trainer.train = train_or_die  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill-before", default="")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("runs", nargs="+")
    args = parser.parse_args()
    if args.kill_before:
        name, step = args.kill_before.split(":")
        kill_before(name, int(step))
    if args.devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * args.devices
        tf.config.set_logical_device_configuration(cpu, devices)
    # Nobody reads the network's file, and it takes longer to make than a small run.
    delg.training.finalize.write_network = lambda *_: b""
    for run in args.runs:
        config, _, resume = run.partition(":")
        train_in_stages(read_train_settings(Path(config)), bool(resume))


main()
