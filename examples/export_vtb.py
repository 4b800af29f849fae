"""Writes a trained model in the format of other programs; see `python examples/export_vtb.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_CHOICES, _CARD = "Choices of some formats", "For the model card"


def _flag(panel: str, help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **more)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    format: Annotated[str, typer.Option(help="salm, vllm, merged, peft, encoder or quantized.")],
    output_dir: Annotated[Path, typer.Option(file_okay=False, help="A folder that is empty or not there yet.")],
    llm: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads it at run time)
        _flag(
            _CHOICES,
            "salm, vllm, peft: hub name or folder that the export shall name as its LLM; by default that of the training, for "
            "vllm the configuration inside the export.",
        ),
    ] = None,
    asr: Annotated[
        Optional[str],  # noqa: UP045
        _flag(
            _CHOICES,
            "encoder: .nemo or public name of the speech model that the encoder came from, for its decoder; by default what "
            "the training named.",
        ),
    ] = None,
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        _flag(
            _CHOICES, "merged, quantized: float32 or bfloat16, of weights that LoRA is added to; by default the LLM's."
        ),
    ] = None,
    bits: Annotated[int, _flag(_CHOICES, "quantized: 8 or 4, of a weight.")] = 8,
    evaluation: Annotated[
        Optional[Path],  # noqa: UP045
        _flag(_CARD, "Folder that evaluate_vtb.py left for this very model, for its scores.", exists=True),
    ] = None,
    run: Annotated[
        Optional[Path],  # noqa: UP045
        _flag(
            _CARD,
            "Folder of the training, for the shares of its data; by default the model's, where it holds them.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    license: Annotated[
        Optional[str],  # noqa: UP045
        _flag(_CARD, "Of the model, as the Hugging Face hub calls it."),
    ] = None,
    data_licenses: Annotated[
        Optional[Path],  # noqa: UP045
        _flag(_CARD, "YAML with a licence by source of the training data.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    r"""Writes a trained model in the format of other programs, with a model card (README.md).

    - **salm**: the whole model for NeMo's stock `SALM.from_pretrained`.
    - **vllm**: the same for vLLM with the plugin that comes with NeMo.
    - **merged**: the text LLM with LoRA inside its weights, a Hugging Face folder.
    - **peft**: LoRA alone.
    - **encoder**: the speech encoder, inside the NeMo model that it came from.
    - **quantized**: the text LLM with LoRA inside weights of 8 or 4 bits.

    What a format cannot express is refused, and the setting named. The card says what differs from the model.

    Exit code: 0, or 2 if nothing was written.

    Example:
    ```
    python examples/export_vtb.py --model results/vtb_tiny/vtb_tiny.nemo --format salm --output-dir exports/salm \
      --evaluation results/vtb_tiny/evaluation --license apache-2.0
    ```
    """
    from vtblender_nemo.common.errors import VTBlenderError
    from vtblender_nemo.common.host import quiet_host

    quiet_host()
    from vtblender_nemo.export.about import read_about
    from vtblender_nemo.export.folders import check_free
    from vtblender_nemo.export.formats import export, find_writer
    from vtblender_nemo.export.options import ExportOptions
    from vtblender_nemo.models.loading import load_model

    try:
        check_free(output_dir)
        find_writer(format)
        options = ExportOptions(output_dir=output_dir, llm=llm, asr=asr, dtype=dtype, bits=bits)
        about = read_about(model, run=run, evaluation=evaluation, license=license, data_licenses=data_licenses)
        written = export(load_model(model, "cpu"), format, options, about)
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{output_dir}: {written.what}")
    for note in written.notes:
        typer.echo(f"- {note}")


if __name__ == "__main__":
    app()
