"""Ranking over classes and over images."""

from mlcl.losses._timm import RankingLoss, from_timm


class TwoWayLoss(RankingLoss):
    """Two-way loss: hardest positives against hardest negatives, over classes and over images (Kobayashi, CVPR 2023).

    Args:
        positive_temperature: of the soft minimum over present labels.
        negative_temperature: of the soft maximum over absent ones.
    """

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__(from_timm("TwoWayLoss", tp=positive_temperature, tn=negative_temperature))
