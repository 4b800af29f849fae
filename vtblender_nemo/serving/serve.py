"""A model, an engine and a server, until the process is told to stop."""

from __future__ import annotations

from pathlib import Path

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.models.loading import load_model, pick_device
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine, EngineConfig

_CONNECTIONS = 64
"""Open at once beside those of requests that wait or are answered; uvicorn refuses further ones with 503."""


def serve(model: Path, device: str, config: ServerConfig, engine_config: EngineConfig) -> None:
    """Serves until SIGINT or SIGTERM; answers in the making are then finished, as far as `timeout_secs` allows.

    Raises:
        MissingDependencyError: the server's packages are not installed.
        ConfigError: an unknown device, or an LLM whose answers cannot be made together.
        ModelFileError: the file is no model.
    """
    try:
        import uvicorn

        from vtblender_nemo.serving.api.app import make_app
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs more packages ({error})", knob='pip install "vtblender_nemo[serve]"'
        ) from error
    if not 0 <= config.port <= 65535:
        raise ConfigError("no port", value=config.port, expected="0 to 65535", knob="--port")
    engine = Engine(load_model(model, pick_device(device)), engine_config)
    try:
        uvicorn.run(
            make_app(engine, config),
            host=config.host,
            port=config.port,
            log_level="info",
            timeout_graceful_shutdown=round(config.timeout_secs),
            server_header=False,
            limit_concurrency=_CONNECTIONS + engine_config.max_rows + engine_config.queue_size,
        )
    finally:
        engine.close()
