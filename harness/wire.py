"""What a worker and its owner say to each other: a JSON header, then the raw bytes of tensors. Nothing is unpickled."""

import json
import zlib
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from harness.operations.base import Inputs

__all__ = ["inputs_crc", "memory_bytes", "raw_bytes", "receive", "send"]


def inputs_crc(inputs: Inputs) -> int:
    """Returns a checksum of inputs and cotangents, by which a worker and its owner know that theirs are the same."""
    crc = 0
    for name, item in (*sorted(inputs.tensors.items()), *sorted(inputs.cotangents.items())):
        crc = zlib.crc32(raw_bytes(item), zlib.crc32(name.encode(), crc))
    return crc


def raw_bytes(value: Tensor) -> bytes:
    """Returns the elements of a tensor of any device and layout, row by row."""
    flat = value.detach().to("cpu").clone(memory_format=torch.contiguous_format).flatten()
    # A length-1 axis may keep any stride and still count as contiguous, which a view as bytes does not accept.
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().tobytes()


def memory_bytes(value: Tensor) -> bytes:
    """Returns the bytes of the whole memory that a tensor is a view of."""
    return raw_bytes(torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage()))


def send(connection: Connection, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Sends a header and tensors; tensors may be on any device and in any layout."""
    items = tensors or {}
    shapes = [[name, str(item.dtype).removeprefix("torch."), list(item.shape)] for name, item in items.items()]
    connection.send_bytes(json.dumps({**header, "tensors": shapes}).encode())
    for item in items.values():
        connection.send_bytes(raw_bytes(item))


def receive(connection: Connection) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the next header and its tensors.

    Raises:
        EOFError: the other side is gone.
    """
    header = json.loads(connection.recv_bytes())
    tensors = {}
    for name, dtype_name, shape in header.pop("tensors"):
        data = bytearray(connection.recv_bytes())
        dtype = getattr(torch, dtype_name)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        tensors[name] = flat.view(shape)
    return header, tensors
