"""Heads, one file each. A new head needs one line here; then its name is enough."""

from mlcl.heads.base import Head as Head
from mlcl.heads.base import HeadOutput as HeadOutput
from mlcl.heads.base import PerClassLinear as PerClassLinear
from mlcl.heads.csra import CSRA as CSRA
from mlcl.heads.global_pool import GlobalPool as GlobalPool
from mlcl.heads.label_attention import LabelAttention as LabelAttention
from mlcl.heads.ml_decoder import MLDecoder as MLDecoder
from mlcl.heads.query_decoder import QueryDecoder as QueryDecoder
from mlcl.heads.semantic_attention import SemanticAttention as SemanticAttention

_known = [value for value in list(globals().values()) if isinstance(value, type)]
HEADS: dict[str, type] = {c.__name__: c for c in _known if issubclass(c, Head) and c is not Head}
