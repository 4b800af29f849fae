"""Ranks that are forked from one process: importing NeMo takes longer than most of what is tested with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes


def run_ranks(work: Callable[..., Any], ranks: int, *arguments: Any) -> None:
    """Runs a function in so many forked processes, which have torchrun's variables where they are several.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed.
    """
    start_processes(_as_rank, (ranks, _free_port(), work, arguments), nprocs=ranks, start_method="fork")


def _as_rank(rank: int, ranks: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if ranks > 1:
        _tell(rank, ranks, port)
    work(*arguments)


def _tell(rank: int, ranks: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
