"""Knowledge: the only thing that crosses between server and clients."""

from fedkt.knowledge.fused import Fused
from fedkt.knowledge.piece import (
    ANSWERS,
    CLASS_KINDS,
    KINDS,
    ROW_KINDS,
    SAMPLE_KINDS,
    Kind,
    Knowledge,
    NamedTensors,
    dtype_name,
    knowledge_in,
    tensors_of,
)
from fedkt.knowledge.uploads import Stack, Upload, Uploads

__all__ = [
    "ANSWERS",
    "CLASS_KINDS",
    "KINDS",
    "ROW_KINDS",
    "SAMPLE_KINDS",
    "Fused",
    "Kind",
    "Knowledge",
    "NamedTensors",
    "Stack",
    "Upload",
    "Uploads",
    "dtype_name",
    "knowledge_in",
    "tensors_of",
]
