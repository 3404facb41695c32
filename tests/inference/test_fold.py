"""BatchNorms fold into the convolutions before them in an exported program; what does not fit is left."""

import torch
from torch import nn

from mlcl.inference.fold import fold_batch_norms


class Blocks(nn.Module):
    """Every way in which a BatchNorm follows a convolution; the first two can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=k % 2 == 0) for k in range(7))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(7))
        self.norms[5] = nn.BatchNorm2d(3, affine=False)
        self.norms[6] = nn.BatchNorm2d(3, track_running_stats=False)
        for norm in self.norms[:6]:
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
        for norm in self.norms[:5]:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)

    def forward(self, x):
        conv, norm = self.convolutions, self.norms
        x = norm[1](conv[1](norm[0](conv[0](x)).relu()))
        y = conv[2](x)
        x = norm[2](y) + y  # a second reader
        x = norm[3](conv[3](conv[3](x)))  # the weights are read twice
        x = norm[4](conv[4](x).relu())  # something between
        return norm[6](conv[6](norm[5](conv[5](x))))


def test_only_what_is_safe_is_folded():
    torch.manual_seed(0)
    network, example = Blocks().eval(), torch.randn(2, 3, 4, 4)
    program = torch.export.export(network, (example,))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_batch_norms(program) == 2
    norms = program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    assert len(norms) == 5
    other = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(program.module()(other), network(other))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
