"""A frozen base that several processes hold together: each keeps a share of every layer's weights (torch's FSDP2).

Only what is frozen is shared out, since that is what is large. The adapter stays whole in every process, so optimiser,
checkpoints and gradients are those of any other run. A layer's weights are gathered when a pass reaches it, by all
processes at once: they make equally many passes, each forward and backward in one piece.

accelerate 1.15's `FullyShardedDataParallelPlugin(fsdp_version=2)` does not do the same. On CPUs it is ignored (tried:
`DistributedType.MULTI_CPU`, 0 of 20 weights shared out). On GPUs it leaves out what bitsandbytes packed into bytes
(accelerate issue 3983), so that every process would hold a 4-bit base whole; of weights packed as bf16, FSDP2 is
reported to change the bits that read as NaN (bitsandbytes issue 1945).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import PartialState
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from grokora_pipeline.training.attention import decoder_layers, text_decoder


@contextmanager
def in_turn() -> Iterator[None]:
    """The processes of one machine one after the other: only one whole base is in memory at a time."""
    state = PartialState()
    after = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - state.local_process_index
    for _ in range(state.local_process_index):
        state.wait_for_everyone()
    yield
    for _ in range(after):
        state.wait_for_everyone()


def shard(model: PeftModel, device: torch.device) -> None:
    """Keep this process's share of a model that was loaded on the CPU, on `device`."""
    base = model.get_base_model()
    decoder, layers = text_decoder(base), decoder_layers(base)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        layer.to(device)
        fully_shard(layer, mesh=mesh, ignored_params={weight for weight in layer.parameters() if weight.requires_grad})
    model.to(device)
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()) - set(layers.parameters()))
    base.hf_device_map = {"": device}
    model._is_accelerate_prepared = True  # DDP takes no sharded weights; `LayoutTrainer` sums the gradients itself


def held(weights: int, layers: list[int], processes: int) -> int:
    """Bytes of the base in one process: what is outside the layers, its share of these, and two whole ones at work."""
    if processes == 1:
        return weights
    return weights - sum(layers) + sum(layers) // processes + 2 * max(layers)
