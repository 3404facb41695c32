"""Ranking around a threshold at zero."""

from mlcl.losses._timm import RankingLoss, from_timm


class ZLPRLoss(RankingLoss):
    """ZLPR: log(1 + sum over absent e^s) + log(1 + sum over present e^-s), per image (arXiv 2208.02955)."""

    def __init__(self) -> None:
        super().__init__(from_timm("ZlprLoss"))
