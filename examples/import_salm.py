"""Makes a `.nemo` of a stock SALM's folder; see `python examples/import_salm.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONFIG = Path(__file__).parents[1] / "conf/base.yaml"

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    input: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder that SALM.save_pretrained or export_vtb.py left.")
    ],
    output: Annotated[Path, typer.Option(dir_okay=False, help="The model, a .nemo file that is not there yet.")],
) -> None:
    r"""Makes a `.nemo` of the folder of NeMo's stock SALM, such as Canary-Qwen's, with the same answers.

    The chat template is made to write what the folder's prompt format does. What the folder lacks is loaded under the names in
    its config.json. Audio is cut at pauses where it is longer than the encoder's chunks, not after fixed times.

    Exit code: 0, or 2 if nothing was written.

    Example:
    ```
    python examples/import_salm.py --input models/canary-qwen --output models/canary-qwen.nemo
    ```
    """
    from omegaconf import OmegaConf

    from vtblender_nemo.common.errors import VTBlenderError
    from vtblender_nemo.common.host import quiet_host

    quiet_host()
    from vtblender_nemo.export.importing import import_salm

    try:
        defaults = OmegaConf.load(CONFIG).model
        model = import_salm(input, output, defaults)
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    trained = ", ".join(f"{part} {count:,}" for part, count in model.trained_parameters().items())
    typer.echo(f"{output}: {type(model.llm.causal_lm).__name__}; trainable parameters: {trained}")


if __name__ == "__main__":
    app()
