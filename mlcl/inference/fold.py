"""BatchNorms folded into the convolutions before them: the same function with fewer operations.

It makes a ResNet-101's .pt2 file about a tenth faster on a CPU. ONNX files do not need it: onnxruntime does it itself.
"""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(program: ExportedProgram) -> int:
    """Fold every BatchNorm that is the only reader of a convolution's output; returns how many.

    The program, exported in eval mode, is changed in place.
    """
    signature, state, folded = program.graph_signature, program.state_dict, 0
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def value(node: Any) -> torch.Tensor:
        tensor: torch.Tensor = state[names[node.name]]
        return tensor.double()

    def is_own(node: Any) -> bool:
        """Whether it is a parameter that nothing else reads, so that it may get another value."""
        return isinstance(node, Node) and node.name in signature.inputs_to_parameters and len(node.users) == 1

    for norm in program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        convolution, scale, shift, mean, variance, _, _, eps, _ = norm.args
        if convolution.target is not torch.ops.aten.conv2d.default or len(convolution.users) > 1:
            continue
        source, weight, bias, *rest = (*convolution.args, None)[: max(3, len(convolution.args))]
        if not all(map(is_own, (weight, scale, shift))) or mean is None:
            continue
        before = None if bias is None else value(bias)
        fused = fuse_conv_bn_weights(
            value(weight), before, value(mean), value(variance), eps, value(scale), value(shift)
        )
        for node, new in zip((weight, shift), fused, strict=True):
            state[names[node.name]] = torch.nn.Parameter(new.to(state[names[node.name]]))
        convolution.args = (source, weight, shift, *rest)
        norm.replace_all_uses_with(convolution)
        program.graph.erase_node(norm)
        folded += 1
    program.graph_module.recompile()
    return folded
