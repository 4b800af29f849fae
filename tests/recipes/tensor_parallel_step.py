"""What several ranks measure together; run by `test_tensor_parallel.py`.

python -m tests.recipes.tensor_parallel_step FOLDER pair four      # functions of this file; what they return is FOLDER/NAME.pt

Imports take longer than all that is measured, so that ranks are forked from a process that has made them. Under torchrun the
process is one of the ranks. Whole models, to compare with, are in every process.
"""

from __future__ import annotations

import math
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from tests.helpers.models import audio_part, model_config, user
from tests.recipes.ddp_step import Share
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.backbones.megatron_llm import communication, layers
from vtblender_nemo.backbones.megatron_llm.building import build_parallel_llm, load_parallel_llm
from vtblender_nemo.backbones.megatron_llm.groups import join, leave
from vtblender_nemo.backbones.megatron_llm.llm import MegatronLLM
from vtblender_nemo.backbones.transformers_llm import TransformersLLM, llm_config, load_llm
from vtblender_nemo.common import shards
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import data_rank
from vtblender_nemo.modules.losses import target_kl, target_nll
from vtblender_nemo.training.fit import build_data, build_model, fit
from vtblender_nemo.training.optim import build_optimizer
from vtblender_nemo.training.tensor_parallel import TensorParallelStrategy

LORA = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
FAMILIES = [("gemma", 2), ("gemma", 1), ("gemma2", 2), ("gemma3", 1), ("llama", 2), ("qwen2", 1), ("qwen3", 2)]
LENS, IDS, STOP = [9, 5, 4], 264, 5
CHAT = [[user("hear", audio_part(0.7))], [user("and now?")]]
Found = dict[str, Any]


def pair(folder: Path) -> Found:
    """Two ranks that hold one model."""
    whole, cut = llms(folder / "gemma-1", 2)
    return {
        "families": {f"{name}-{heads}": compare(*llms(folder / f"{name}-{heads}", 2)) for name, heads in FAMILIES},
        "recomputed": compare(*llms(folder / "gemma2-2", 2, recompute="layers")),
        "without reduction": without_reduction(folder / "gemma-1"),
        "bfloat16": difference(*(run(llm, targets=False)[0] for llm in llms(folder / "gemma-2", 2, "bfloat16"))),
        "divergence": {str(k): divergence(whole, cut, k) for k in (None, 3, IDS - 1)},
        "no targets": target_nll(cut.embed(torch.tensor([7]))[:0], torch.zeros(0, dtype=torch.int64), cut.head).shape,
        "random": random_llm(folder / "gemma-2"),
        "lora": lora_of(cut),
        "lora on": {str(layers): lora_on(folder / "llama-2", layers) for layers in ("all-linear", ["lm_head"])},
        "adapter": adapter(folder / "gemma-1", whole, cut, folder / "adapter"),
        "stock peft": stock_peft(),
        "optimizers": three_steps(whole, cut),
        "averaged": averaged(cut),
        **step(folder, [[0, 1, 2, 3]]),
        "trained": trained(folder),
    }


def four(folder: Path) -> Found:
    """Four ranks: all of them hold one model, then two models of two each."""
    found = {name: compare(*llms(folder / name, 4)) for name in ("gemma-2", "gemma-1", "qwen3-2")}
    leave()
    return {"families": found, **step(folder, [[0, 1], [2, 3]]), "drift": drift(folder)}


# The LLM ------------------------------------------------------------------------------------------------------------------


def llms(folder: Path, size: int, dtype: str = "float32", **options: Any) -> tuple[TransformersLLM, MegatronLLM]:
    """The LLM of a folder, whole and cut, with the same LoRA, which is not zero."""
    whole = TransformersLLM(load_llm(str(folder), llm_config(str(folder)), dtype), lora=LORA)
    cut = MegatronLLM(
        load_parallel_llm(str(folder), llm_config(str(folder)), dtype, size, attention=None), lora=LORA, **options
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in whole.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    assert list(whole.state_dict()) == list(cut.state_dict())
    cut.load_state_dict(shards.own_state(whole.state_dict(), cut))
    return whole.train(), cut.train()


def run(llm: TransformersLLM, *, targets: bool = True) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits of packed conversations, gradients of their embeddings and of LoRA, whole."""
    llm.zero_grad()
    ids = torch.randint(7, IDS, (sum(LENS),), generator=torch.Generator().manual_seed(2))
    embeds = llm.embed(ids).detach().requires_grad_()
    hidden = llm.hidden_packed(embeds, LENS)
    if not targets:
        return llm.logits(hidden).detach(), embeds, {}
    loss = target_nll(hidden, ids.roll(-1), llm.head)
    loss.sum().backward()
    return llm.logits(hidden).detach(), embeds.grad, gradients(llm)


def as_teacher(llm: TransformersLLM) -> Tensor:
    """Hidden states without LoRA."""
    with llm.pretrained():
        return llm.hidden_packed(llm.embed(torch.arange(7, 7 + sum(LENS))), LENS)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """Whole gradients by name."""
    axes, found = shards.axes(module), {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            found[name] = shards.whole(parameter.grad, axes[name]) if name in axes else parameter.grad.clone()
    return found


def compare(whole: TransformersLLM, cut: MegatronLLM) -> Found:
    """Differences in relation to the size of what is compared, but for tokens and fingerprints, which are equal or not."""
    (logits, of_embeds, of_lora), (cut_logits, of_cut_embeds, of_cut_lora) = run(whole), run(cut)
    taught = [as_teacher(llm) for llm in (whole, cut)]
    assert of_lora.keys() == of_cut_lora.keys()
    whole.eval(), cut.eval()
    embeds = whole.embed(torch.arange(10, 28).view(2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :4] = False
    answers = {
        beams: [m.generate(embeds, mask, max_new_tokens=5, stop_ids=[STOP], num_beams=beams) for m in (whole, cut)]
        for beams in (1, 2)
    }
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = [model.hidden(embeds, mask, positions)[mask].detach() for model in (whole, cut)]
    with torch.no_grad():
        plain = [model.causal_lm(input_ids=torch.arange(10, 20)[None]).logits for model in (whole, cut)]
    return {
        "logits": difference(logits, cut_logits),
        "plain logits": difference(*plain),
        "padded": difference(*padded),
        "embeds": difference(of_embeds, of_cut_embeds),
        "teacher": difference(*taught),
        "lora": max(difference(of_lora[name], of_cut_lora[name]) for name in of_lora),
        "answers": all(torch.equal(*pair) for pair in answers.values()),
        "fingerprint": whole.fingerprint() == cut.fingerprint(),
        "parts": all(math.prod(w.shape) < math.prod(whole.state_dict()[n].shape) for n, w in parted(cut)),
        "cut": len(parted(cut)),
    }


def parted(llm: MegatronLLM) -> list[tuple[str, Tensor]]:
    axes = shards.axes(llm)
    return [(name, weight) for name, weight in llm.state_dict().items() if name in axes]


def difference(expected: Tensor, found: Tensor) -> float:
    """The norm of the difference in relation to that of what was expected."""
    return ((expected.float() - found.float()).norm() / expected.float().norm()).item()


def without_reduction(folder: Path) -> float:
    """A wrong one, to see that it shows: gradients of keys and values stay those of a rank's own heads."""
    right = communication.reduced
    communication.reduced = lambda x, *_: x
    try:
        return compare(*llms(folder, 2))["lora"]
    finally:
        communication.reduced = right


def divergence(whole: TransformersLLM, cut: MegatronLLM, top_k: int | None) -> tuple[float, float]:
    """Differences of divergences and of their gradients."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, whole.hidden_size, generator=generator)
    found = []
    for llm in (whole, cut):
        rows = student.clone().requires_grad_()
        values = target_kl(rows, teacher, llm.head, temperature=2.0, top_k=top_k)
        (values * torch.arange(1.0, 7.0)).sum().backward()
        found.append((values.detach(), rows.grad))
    return difference(found[0][0], found[1][0]), difference(found[0][1], found[1][1])


def random_llm(folder: Path) -> Found:
    """Weights that are drawn: norms are neutral, what ranks hold alike is alike, and parts are not."""
    llm = build_parallel_llm(llm_config(str(folder)), "float32", 2, attention=None)
    query = llm.base_model.layers[0].self_attn.q_proj.weight
    return {
        "finite": all(bool(torch.isfinite(weight).all()) for weight in llm.state_dict().values()),
        "norm": llm.base_model.norm.weight.abs().max().item(),
        "parts": difference(*shards.whole(query, 0).chunk(2)),
    }


def lora_of(cut: MegatronLLM) -> Found:
    """How LoRA begins, also where ranks draw other numbers, and that it can be merged."""
    torch.manual_seed(dist.get_rank())
    base, name = cut.causal_lm.base_model.layers[0], "default"
    for module in (base.self_attn.q_proj, base.self_attn.k_proj, base.mlp.down_proj):
        module.reset_lora_parameters(name, True)
        module.draw_xavier(name)
    alike = [layer.lora_A[name].weight.detach() for layer in (base.self_attn.q_proj, base.self_attn.k_proj)]
    down = shards.whole(base.mlp.down_proj.lora_A[name].weight, 1)
    torch.manual_seed(0)
    torch.nn.init.normal_(base.mlp.down_proj.lora_B[name].weight)
    x = torch.ones(1, 2, base.mlp.down_proj.get_base_layer().weight.shape[1])
    before = base.mlp.down_proj(x)
    base.mlp.down_proj.merge()
    merged = base.mlp.down_proj(x)
    base.mlp.down_proj.unmerge()
    return {
        "alike": all(torch.equal(*everywhere(weight)) for weight in alike),
        "zero": base.self_attn.q_proj.lora_B[name].weight.abs().max().item(),
        "std": (down.std() / math.sqrt(2 / sum(down.shape))).item(),
        "merged": difference(before, merged),
    }


def lora_on(folder: Path, layers: Any) -> str:
    """Whether LoRA stands where it stands in a whole LLM, or why it does not."""
    config, lora = llm_config(str(folder)), {"r": 2, "target_modules": layers}
    whole = TransformersLLM(load_llm(str(folder), config, "float32"), lora=lora)
    try:
        cut = MegatronLLM(load_parallel_llm(str(folder), config, "float32", 2, attention=None), lora=lora)
    except ConfigError as error:
        return str(error)
    return "equal" if list(whole.state_dict()) == list(cut.state_dict()) else "other layers"


def everywhere(value: Tensor) -> list[Tensor]:
    """What every rank has."""
    found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(found, value.contiguous())
    return found


def adapter(base: Path, whole: TransformersLLM, cut: MegatronLLM, target: Path) -> Found:
    """LoRA's export, read by peft itself."""
    cut.load_state_dict(shards.own_state(whole.state_dict(), cut))  # others have written to it
    cut.save_adapter(target)
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), target)
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        wanted = whole.eval().model(input_ids=ids).logits
        found = read(input_ids=ids).logits
    expected = whole.adapter_weights()
    kept = PeftModel.get_base_model(read) is not None and cut.adapter_weights()
    return {
        "logits": difference(wanted, found),
        "equal": expected.keys() == kept.keys() and all(torch.equal(expected[n], kept[n]) for n in expected),
    }


def stock_peft() -> str:
    """What peft's own way to put LoRA on megatron-core's layers ends with."""
    from megatron.core.tensor_parallel import ColumnParallelLinear

    config = layers.parallel_config(torch.float32)
    layer = ColumnParallelLinear(8, 8, config=config, init_method=lambda weight: weight, bias=False)
    try:
        settings = LoraConfig(target_modules=["0"], megatron_config=config, megatron_core="megatron.core")
        wrapped = get_peft_model(torch.nn.Sequential(layer), settings)  # type: ignore[arg-type]
        return str(wrapped.base_model.model[0](torch.zeros(1, 2, 8))[0].shape)
    except Exception as error:  # whatever it is
        return f"{type(error).__name__}: {error}"


def three_steps(whole: TransformersLLM, cut: MegatronLLM) -> float:
    """Steps of Muon on some matrices and AdamW on others, the last one after states went through those of a whole model."""
    cfg = OmegaConf.create(
        {"lr": 0.01, "betas": [0.9, 0.98], "weight_decay": 0.1, "lr_scale": {}, "muon_lr": {"first": 0.01}}
    )
    cut.load_state_dict(shards.own_state(whole.state_dict(), cut))
    parts, optimizers = [], []
    for llm in (whole, cut):
        named = [(name, weight) for name, weight in llm.named_parameters() if weight.requires_grad]
        parts.append({"first": named[:14], "second": named[14:]})
        optimizers.append(build_optimizer(parts[-1], cfg))
    for number in range(3):
        if number == 2:
            parameters = [p for group in optimizers[1].param_groups for p in group["params"]]
            kept = shards.whole_optimizer_state(optimizers[1].state_dict(), parameters)
            optimizers[1] = build_optimizer(parts[1], cfg)
            optimizers[1].load_state_dict(shards.own_optimizer_state(kept, parameters))
        for llm, optimizer in zip((whole, cut), optimizers, strict=True):
            run(llm)
            optimizer.step()
    found = shards.whole_state(dict(cut.named_parameters()), cut)
    return max(difference(weight, found[name]) for named in parts[0].values() for name, weight in named)


def averaged(cut: MegatronLLM) -> bool:
    """Whether gradients that differ between ranks, as a device may have added in another order, become their mean."""
    parameters = [weight for weight in cut.parameters() if weight.requires_grad]
    for weight in parameters:
        weight.grad = torch.full_like(weight, 1.0 + 2 * dist.get_rank())
    shards.average_replicated(parameters)
    wanted = {True: 2.0, False: 1.0 + 2 * dist.get_rank()}
    return all(bool((weight.grad == wanted[shards.axis_of(weight) is None]).all()) for weight in parameters)


# Training -----------------------------------------------------------------------------------------------------------------


def step(folder: Path, shares: list[list[int]]) -> Found:
    """Gradients of a step, unclipped and clipped, of the rows that every data rank has a share of."""
    join(2)
    config = model_config(
        folder / "gemma-1", folder / "canary.nemo", optim={"sched": {"warmup_steps": 0}}, tensor_parallel=2
    )
    return {f"step {clip}": one_step(config, shares[data_rank()[0]], clip, folder) for clip in (None, 0.01)}


def one_step(config: DictConfig, rows: list[int], clip: float | None, folder: Path) -> dict[str, Tensor]:
    pl.seed_everything(0)
    model = VTBlenderModel(config)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    many = config.get("tensor_parallel", 1) > 1
    keep = KeepGradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=dist.get_world_size() if many else 1,
        strategy=TensorParallelStrategy() if many else "auto",
        max_steps=1,
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[keep],
    )
    trainer.fit(model.eval(), DataLoader(Share(model, rows), batch_size=None))
    return keep.kept


class KeepGradients(pl.Callback):
    """Keeps the gradients that the optimiser was given."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.kept = gradients(pl_module)


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillAt(pl.Callback):
    """Ends a training in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def trained(folder: Path) -> Found:
    """Whole trainings: one from start to end, one that is stopped, and one that goes on where a whole model stopped."""
    train(folder / "cut.yaml")
    model = train(folder / "stopped_whole.yaml", tensor_parallel=2)
    model.save_to(folder / "cut.nemo")
    model.cfg.save_llm = False
    model.save_to(folder / "lean.nemo")
    answers = model.generate(CHAT, 6)
    restored = VTBlenderModel.restore_from(folder / "whole.nemo", tensor_parallel=2).eval()
    train(folder / "stopped_cut.yaml", kill_at=3)  # at last: the host's telemetry does not forget what was killed
    return {
        "answers": answers,
        "answers of whole": restored.generate(CHAT, 6),
        "size after": model.cfg.tensor_parallel,
        "parameters": model.trained_parameters(),
        "replicated": drift_of(restored),
    }


def train(path: Path, *, kill_at: int | None = None, **changes: Any) -> VTBlenderModel:
    """The training of a configuration, or a part of it."""
    cfg = OmegaConf.load(path)
    cfg.model = OmegaConf.merge(cfg.model, changes)
    model = build_model(cfg)
    with suppress(Killed):
        fit(cfg, model, build_data(cfg, model), callbacks=[] if kill_at is None else [KillAt(kill_at)])
    return model


def drift(folder: Path) -> Found:
    """After some steps of four ranks: who holds the same still holds the same."""
    model = train(folder / "four.yaml")
    checkpoint = next((folder / "four").glob("training/checkpoints/*last.ckpt"))
    kept = torch.load(checkpoint, weights_only=False)
    return {
        **drift_of(model),
        "ranks with rows": len(kept["BlendDataModule"]["ranks"]),
        "steps": model.trainer.global_step,
    }


def drift_of(model: VTBlenderModel) -> Found:
    """The largest difference between ranks in what they should hold alike, and the smallest between parts."""
    _, ranks = data_rank()
    alike, copies, parts = 0.0, 0.0, float("inf")
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        of_ranks = everywhere(weight.detach())
        if shards.axis_of(weight) is None:
            alike = max(alike, *((one - of_ranks[0]).abs().max().item() for one in of_ranks))
        else:
            copies = max([copies, *((of_ranks[2 * n] - of_ranks[0]).abs().max().item() for n in range(ranks))])
            if ".lora_A" in name:
                parts = min(parts, (of_ranks[1] - of_ranks[0]).abs().max().item())
    return {"alike": alike, "copies": copies, "parts": parts}


CHECKS = {"pair": (pair, 2), "four": (four, 4)}


def measure(checks: str, folder: Path) -> None:
    """What one rank does."""
    found = CHECKS[checks][0](folder)
    if dist.get_rank() == 0:
        torch.save(found, folder / f"{checks}.pt")


def as_rank(rank: int, checks: str, port: int, folder: Path) -> None:
    """A forked process with the variables of torchrun."""
    ranks = str(CHECKS[checks][1])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": checks}
    measure(checks, folder)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if "RANK" in os.environ:
        measure(names[0], folder)
        return
    for checks in names:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start_processes(as_rank, (checks, port, folder), nprocs=CHECKS[checks][1], start_method="fork")


if __name__ == "__main__":
    main()
