# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Takes a policy's weights in a vLLM server, by vLLM's own phases of an update.

``--worker-extension-cls mmdpad_weight_updates.WeightUpdates`` makes each worker import this, which
registers two backends for ``--weight-transfer-config``: ``mmdpad_files`` and ``mmdpad_nccl``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vllm
from mmdpad_reload import (
    biases_required,
    drop_half_loaded,
    find_missing,
    forget_packed_experts,
    process_shared,
)
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)


class WeightUpdates:
    """Further methods of vLLM's worker, called through ``/collective_rpc``."""

    def weight_update_state(self: Any) -> dict[str, Any]:
        """Say how this worker takes weights, and of which model."""
        config = self.vllm_config.weight_transfer_config
        return dict(vllm=vllm.__version__, backend=config and config.backend,
                    link=getattr(self.weight_transfer_engine, 'link', ''),
                    model=self.model_config.hf_config.to_dict())

    def drop_weight_update(self: Any) -> None:
        """Forget an update that was not finished; vLLM refuses to start another before."""
        if self._weight_update_active:
            self.weight_transfer_engine.reset_weight_update_target()
            self._weight_update_active = False


class _CompleteUpdates(WeightTransferEngine):
    """Updates that give the model all its weights, or raise.

    Attributes:
        link: Names the connection to the trainer; empty before there is one.
    """

    supports_draft_weight_update = False
    link = ''

    def start_weight_update(self) -> None:
        """Begin an update; what an unfinished one left is dropped."""
        drop_half_loaded(self.model, self.model_config)
        forget_packed_experts(self.model)
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """End it.

        Raises:
            RuntimeError: Some weights did not arrive.
        """
        if missing := find_missing(self.model):
            raise RuntimeError(f'all weights should have arrived, but {len(missing)} did not or in '
                               f'part, for example {missing[0]}')
        finalize_layerwise_reload(self.model, self.model_config)
        process_shared(self.model)


@dataclass
class FilesInit(WeightTransferInitInfo):
    """Names a folder, and a file in it that holds ``token``."""

    folder: str
    token: str


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):
    """Names a file of safetensors with some weights."""

    path: str


class FilesEngine(_CompleteUpdates):
    """Reads weights from files that the trainer writes to a folder which both see."""

    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """Check that the trainer's folder is visible here.

        Raises:
            ValueError: It is not, or it is another folder of that name.
        """
        probe = Path(init_info.folder, 'probe')
        try:
            seen = probe.read_text()
        except OSError as error:
            raise ValueError(f'the folder {init_info.folder} should be readable here, but '
                             f'{error}') from error
        if seen != init_info.token:
            raise ValueError(f"the folder {init_info.folder} should be the trainer's, but it is "
                             f'another one here')
        self.link = init_info.folder

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """Load the weights of a file.

        Raises:
            RuntimeError: The model refuses one.
        """
        name = ''

        def read() -> Iterator[tuple[str, Tensor]]:
            nonlocal name
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                # A copy: some are kept until their layer is complete, the file is not.
                yield name, file.get_tensor(name).clone()

        with (safe_open(update_info.path, framework='pt') as file, biases_required(),
              disable_mtp_completeness_check()):
            try:
                self.model.load_weights(read())
            except (AssertionError, AttributeError, KeyError, RuntimeError, ValueError) as error:
                raise RuntimeError(f'the weight {name} is refused: '
                                   f'{str(error) or type(error).__name__}') from error

    def shutdown(self) -> None:
        """Nothing is held."""


class NCCLEngine(_CompleteUpdates, NCCLWeightTransferEngine):
    """vLLM's own backend, with our checks."""

    def init_transfer_engine(self, init_info: Any) -> None:
        """Join the trainer's group; see vLLM."""
        super().init_transfer_engine(init_info)
        self.link = f'{init_info.master_address}:{init_info.master_port}'

    def receive_weights(self, update_info: Any) -> None:
        """Load some weights; see vLLM."""
        with biases_required():
            super().receive_weights(update_info)


for _name, _engine in dict(mmdpad_files=FilesEngine, mmdpad_nccl=NCCLEngine).items():
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _engine)
