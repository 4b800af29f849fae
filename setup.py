"""Package of VoiceTextBlender for NeMo; `conf/` is installed as `vtblender_nemo.conf`.

What was installed and run is the newest release of each range (torch 2.13, Python 3.11); lower bounds were resolved, not run.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

REQUIRED = [
    "nemo_toolkit[asr]>=3.0,<3.1",
    # The NeMo and PyTorch containers bring a build of their own, which this range leaves in place.
    "torch>=2.6,<2.14",
    "accelerate>=1.10,<2",
    "braceexpand>=0.1.7,<0.2",
    "datasets>=3.2,<6",
    "espeakng-loader>=0.2.4,<0.3",
    "hydra-core>=1.3,<1.4",
    "hydra-joblib-launcher>=1.2,<1.3",
    "jinja2>=3.1,<4",
    "jiwer>=4.0,<5",
    "lhotse>=1.33,<1.34",
    "lightning>=2.4,<2.5",
    "matplotlib>=3.10,<4",
    "numpy>=1.26,<3",
    "omegaconf>=2.3,<2.4",
    "peft>=0.21,<0.22",
    "psutil>=5.9,<8",
    "pyarrow>=18,<27",
    "pyyaml>=6,<7",
    "rich>=14,<16",
    "rouge_score>=0.1.2,<0.2",
    "sacrebleu>=2.6,<3",
    "safetensors>=0.6,<1",
    "scipy>=1.11,<2",
    "soundfile>=0.13,<0.15",
    "soxr>=0.5,<2",
    "tensorboard>=2.20,<3",
    "tokenizers>=0.22,<1",
    "tqdm>=4.67,<5",
    "transformers>=5,<6",
    "typer>=0.20,<1",
    "whisper_normalizer>=0.1.10,<0.2",
]

EXTRAS = {
    "synthesis": [
        "json_repair>=0.50,<1",
        "num2words>=0.5.13,<0.6",
        "openai>=2,<4",
        "py3langid>=0.3,<0.5",
        "sentencex>=1,<2",
    ],
    "corpora": ["av>=14,<19"],  # for audio in M4A
    "ray": ["ray>=2.49,<3"],
    "tts": ["nemo_toolkit[tts]>=3.0,<3.1"],
    "eval": ["langdetect>=1.0.9,<2", "lm_eval[ifeval]>=0.4.13,<0.5", "openai>=2,<4"],
    "comet": ["unbabel-comet>=2.2,<3"],
    "embedding": ["sentence-transformers>=5.2,<7"],  # for embedding_similarity_percent
    "lmms": ["lmms_eval[audio]>=0.7,<0.8"],
    "slurm": ["hydra-submitit-launcher>=1.2,<1.3"],
    "serve": [
        "anyio>=4,<5",
        "fastapi>=0.115,<1",
        "prometheus_client>=0.21,<1",
        "pydantic>=2.10,<3",
        "python-multipart>=0.0.20,<1",
        "starlette>=0.41,<2",
        "uvicorn>=0.30,<1",
    ],
    "microphone": ["sounddevice>=0.5,<1"],
    "megatron": ["megatron-core>=0.16,<0.17"],
    "cuda": ["liger-kernel>=0.8,<0.9"],  # the loss as one kernel
    "fuzz": ["atheris>=2.3,<4"],
    "quant": ["bitsandbytes>=0.48,<1", "torchao>=0.18,<0.19"],
}

TESTED_EXTRAS = [
    "synthesis",
    "corpora",
    "ray",
    "eval",
    "embedding",
    "serve",
    "megatron",
    "slurm",
]  # an extra is listed here from its first test on

TEST_TOOLS = [
    "hypothesis>=6.100,<7",
    "mypy>=2,<3",
    "nemo_text_processing>=1.1,<2",  # of the extra tts all that our tests use; the rest needs a C++ compiler
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.14,<1",
    "selenium>=4.25,<5",
]

setup(
    name="vtblender_nemo",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "vtblender_nemo/__init__.py").read_text("utf-8")).group(1),
    description="VoiceTextBlender for NVIDIA NeMo: a text LLM learns to hear and keeps its text skills",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=[*find_packages(include=["vtblender_nemo", "vtblender_nemo.*"]), "vtblender_nemo.conf"],
    package_dir={"vtblender_nemo.conf": "conf"},
    package_data={
        "vtblender_nemo.conf": [f"**/*.{kind}" for kind in ("yaml", "md", "jsonl", "json", "txt", "csv")],
        "vtblender_nemo": [
            "evaluation/judge.yaml",
            "evaluation/page/templates/*",
            "evaluation/text/tasks/*.yaml",
            "serving/page/*",
        ],
    },
    entry_points={"lmms_eval.models": ["vtblender = vtblender_nemo.evaluation.lmms:manifests"]},
    install_requires=REQUIRED,
    extras_require={
        **EXTRAS,
        "test": TEST_TOOLS + [requirement for extra in TESTED_EXTRAS for requirement in EXTRAS[extra]],
    },
)
