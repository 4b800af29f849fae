"""Asks one question by many trainings: named variants, several seeds, one report with a verdict on every claim.

    python examples/ablate_vtb.py --config-name experiment/forgetting
    python examples/ablate_vtb.py --config-name experiment/lora_rank model.lora.r=4,64 seed=1      # some of the runs
    python examples/ablate_vtb.py --config-name experiment/forgetting hydra/launcher=slurm         # on a cluster
    python examples/ablate_vtb.py --config-name experiment/forgetting recipe=vtb_blend data.train_ds.input_cfg=blend.yaml

Sweeps: forgetting, lora_rank, text_ratio, tts, model_size, novel_prompts, hours, real_speech, imitation, interleaving,
imitation_hours; examples/experiments/README.md tells what each asks. The same command again makes only the runs that are missing,
and the report anew.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="../conf", config_name="experiment/forgetting")
def main(cfg: DictConfig) -> None:
    from vtblender_nemo.experiments.launch import launch_run

    launch_run(cfg)


if __name__ == "__main__":
    main()
