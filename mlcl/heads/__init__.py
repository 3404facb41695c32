"""Heads, one file each. A new head is imported and listed here: then it is known by its name."""

from mlcl.heads.base import Head, HeadOutput, PerClassLinear
from mlcl.heads.csra import CSRA
from mlcl.heads.global_pool import GlobalPool
from mlcl.heads.label_attention import LabelAttention
from mlcl.heads.ml_decoder import MLDecoder
from mlcl.heads.query_decoder import QueryDecoder
from mlcl.heads.semantic_attention import SemanticAttention

HEADS: dict[str, type] = {
    head.__name__: head for head in (CSRA, GlobalPool, LabelAttention, MLDecoder, QueryDecoder, SemanticAttention)
}

__all__ = [
    "CSRA",
    "HEADS",
    "GlobalPool",
    "Head",
    "HeadOutput",
    "LabelAttention",
    "MLDecoder",
    "PerClassLinear",
    "QueryDecoder",
    "SemanticAttention",
]
