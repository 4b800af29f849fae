"""Flags of commands that ask an LLM: which one, where it runs, and how it answers.

The types are for parameters of a Typer command, as `temperature: Temperature = 0.0`; `make_llm` takes what they gave.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vtblender_nemo.synthesis.llm.clients import LLM, Decoding

LLM_PANEL = "The LLM"
ENDPOINT_PANEL = "An endpoint"
_LOCAL = "A local model"

LLM_FLAGS = {"work.llm.engine": "--base-url", "work.llm.extra_body": "--request-json"}
"""Flags by what they set in a job's settings, for errors."""

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A Hugging Face folder or hub name; with --base-url a name of that server's.",
        rich_help_panel=LLM_PANEL,
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="An OpenAI-compatible server, as http://localhost:8000/v1; without it the model runs here.",
        rich_help_panel=ENDPOINT_PANEL,
    ),
]
ApiKeyEnv = Annotated[
    str,
    typer.Option("--api-key-env", help="The environment variable that holds its key.", rich_help_panel=ENDPOINT_PANEL),
]
Concurrency = Annotated[
    int,
    typer.Option(
        "--concurrency",
        min=1,
        help="Most requests at once, of each worker; at most --batch-rows have any use.",
        rich_help_panel=ENDPOINT_PANEL,
    ),
]
RequestsPerMinute = Annotated[
    float | None,
    typer.Option(
        "--requests-per-minute",
        help="Most requests a minute, of all workers together; default: no limit.",
        rich_help_panel=ENDPOINT_PANEL,
    ),
]
MaxAttempts = Annotated[
    int,
    typer.Option(
        "--max-attempts",
        min=1,
        help="At one prompt; then the job stops, and can go on.",
        rich_help_panel=ENDPOINT_PANEL,
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", help="Seconds that one request may take, more than 0.", rich_help_panel=ENDPOINT_PANEL),
]
RequestJson = Annotated[
    str,
    typer.Option(
        "--request-json",
        help="JSON fields to add to requests, or with null to leave out, as '{\"seed\": null}'.",
        rich_help_panel=ENDPOINT_PANEL,
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", help="cuda, cuda:1, cpu; auto: all visible GPUs, or the CPU.", rich_help_panel=_LOCAL),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="bfloat16, float16, float32; auto: as stored.", rich_help_panel=_LOCAL)
]
LlmBatchSize = Annotated[
    int, typer.Option("--llm-batch-size", min=1, help="Most prompts answered at once.", rich_help_panel=_LOCAL)
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.", rich_help_panel=LLM_PANEL)
]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0, help="0 takes the likeliest reply.", rich_help_panel=LLM_PANEL)
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p", help="Draws from the likeliest tokens of this probability together.", rich_help_panel=LLM_PANEL
    ),
]


def make_llm(
    model: str,
    decoding: Decoding,
    *,
    base_url: str | None,
    api_key_env: str,
    concurrency: int,
    requests_per_minute: float | None,
    max_attempts: int,
    timeout: float,
    request_json: str,
    device: str,
    dtype: str,
    llm_batch_size: int,
    workers: int,
) -> LLM:
    """The LLM that the flags of these names choose, not yet loaded; `workers` share `requests_per_minute`.

    Raises:
        ConfigError: a value that cannot be.
    """
    if base_url is None:
        from vtblender_nemo.synthesis.llm.local import LocalLLM

        return LocalLLM(model, decoding, dtype, device, llm_batch_size)
    from vtblender_nemo.synthesis.llm.endpoint import EndpointLLM, read_extra_body

    return EndpointLLM(
        model,
        decoding,
        base_url=base_url,
        api_key_env=api_key_env,
        concurrency=concurrency,
        requests_per_minute=None if requests_per_minute is None else requests_per_minute / workers,
        max_attempts=max_attempts,
        timeout_secs=timeout,
        extra_body=read_extra_body(request_json),
    )
