"""ASL: easy absent labels count less."""

from mlcl.losses._timm import PerEntryLoss, Reduction


class AsymmetricLoss(PerEntryLoss):
    """Asymmetric loss, ASL (Ridnik et al., ICCV 2021, arXiv 2009.14119, eq. 7).

    L+ = -(1-p)^g+ log p and L- = -p_m^g- log(1-p_m), with p_m = max(p - m, 0).

    Args:
        gamma_neg: focusing exponent g- of absent labels.
        gamma_pos: focusing exponent g+ of present labels.
        clip: probability margin m; 0 turns it off.
        detach_focus: keep the focusing weights out of the gradient.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        detach_focus: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        settings = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "disable_torch_grad_focal_loss": detach_focus}
        super().__init__("AsymmetricLossMultiLabel", reduction, clip=clip, **settings)
