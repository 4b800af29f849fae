"""What two or four ranks that hold one LLM measure of it, whole LLMs beside them; see `tensor_parallel_step.py`.

Differences are in relation to the size of what is compared.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.backbones.megatron_llm import communication, layers
from vtblender_nemo.backbones.megatron_llm.building import build_parallel_llm, load_parallel_llm
from vtblender_nemo.backbones.megatron_llm.llm import MegatronLLM
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common import shards
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.modules.losses import target_kl, target_nll
from vtblender_nemo.training.optim import build_optimizer

LORA = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
FAMILIES = [("gemma", 2), ("gemma", 1), ("gemma2", 2), ("gemma3", 1), ("llama", 2), ("qwen2", 1), ("qwen3", 2)]
LENS, IDS, STOP = [9, 5, 4], 264, 5
Found = dict[str, Any]


def of_pair(folder: Path) -> Found:
    """What two ranks measure."""
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
    }


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
