"""The text LLM for Hugging Face's libraries: with LoRA inside its weights, or LoRA alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.folders import write_weights
from vtblender_nemo.export.llm_weights import generation_config, merged_llm, own_tokenizer
from vtblender_nemo.export.options import ExportOptions, Written, shown

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

_CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
{load}
chat = [{{"role": "user", "content": "Hello!"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=128)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""


def chat_usage(folder: str, load: str) -> str:
    """Python that loads a model by the lines `load` and chats with it."""
    return _CHAT.format(folder=folder, load=load)


def write_merged(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """The text LLM as a plain Hugging Face folder, with tokenizer, chat template and generation settings.

    Raises:
        ConfigError: see `merged_llm`.
    """
    merged_llm(model, options.dtype).save_pretrained(folder)
    own_tokenizer(model).save_pretrained(folder)
    dtype = options.dtype or model.cfg.llm_dtype
    notes = ["It reads and writes text; it cannot hear."]
    if dtype != "float32" and model.cfg.get("lora"):
        notes.append(f"LoRA was added to the weights in float32, and the sum rounded to {dtype}.")
    return Written(
        what="The text LLM of the model, with LoRA inside its weights.",
        usage=chat_usage("FOLDER", 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'),
        library="transformers",
        task="text-generation",
        notes=notes,
    )


def write_peft(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """LoRA alone, in peft's format, with tokenizer and chat template.

    Raises:
        ConfigError: the model has no LoRA.
    """
    if not isinstance(model.llm.model, PeftModel):
        raise ConfigError(
            "the model has no LoRA",
            expected="--format merged, which holds what training made of the LLM",
            knob="--format or model.lora",
        )
    base = options.llm or str(model.cfg.pretrained_llm)
    config = model.llm.model.peft_config["default"]
    kept = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base, True
    try:
        config.save_pretrained(folder)
    finally:
        config.base_model_name_or_path, config.inference_mode = kept
    weights = model.llm.adapter_weights()
    write_weights(weights, folder / "adapter_model.safetensors")
    own_tokenizer(model).save_pretrained(folder)
    generation_config(model).save_pretrained(folder)
    load = (
        "from peft import PeftModel\nfrom transformers import GenerationConfig\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        'model = PeftModel.from_pretrained(base, "FOLDER")\n'
        'model.generation_config = GenerationConfig.from_pretrained("FOLDER")'
    )
    notes = ["It reads and writes text; it cannot hear."]
    if not model.cfg.get("quantization"):
        notes.append(
            f"It belongs to one base LLM alone: {shown(base)}, fingerprint of its weights `{model.llm.fingerprint()}`."
        )
    return Written(
        what="The LoRA of the model, without the LLM that it belongs to.",
        usage=chat_usage("FOLDER", load),
        library="peft",
        task="text-generation",
        notes=notes,
    )
