"""Trains a VoiceTextBlender.

    python examples/train_vtb.py                          # the embedded default: makes its own small world
    python examples/train_vtb.py --config-name vtb_blend data.train_ds.input_cfg=blend.yaml     # your own data
    python examples/train_vtb.py --config-name vtb_3b     # the paper's run; see conf/vtb_3b.yaml

Any key can be set as `key=value`. The same command again continues, or says that it is finished. A signal (SIGTERM, SIGUSR1)
or a time limit ends it with everything saved and exit status 75: run it again. See `checkpoints` in conf/base.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig

from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.common.stopping import RUN_AGAIN, Stopped


@hydra.main(version_base=None, config_path="../conf", config_name="vtb_tiny")
def main(cfg: DictConfig) -> None:
    from vtblender_nemo.experiments.main_job import run

    try:
        run(cfg)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(RUN_AGAIN)
    except VTBlenderError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
