"""The probe: ridge and logistic regression as in scikit-learn, the penalty chosen on training images alone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mlcl.analysis import probe as module
from mlcl.analysis.probe import probe


def data(count, channels, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator) * 3 + 1
    weights = torch.randn(channels, classes, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, classes, generator=generator) * channels**0.5
    return features, ((features - 1) @ weights + noise > 2).to(torch.int8)


def standardised(features):
    return ((features.double() - features.double().mean(0)) / features.double().std(0, correction=0)).numpy()


@pytest.mark.parametrize("count, channels", [(40, 7), (20, 50)])
def test_ridge_is_that_of_scikit_learn(count, channels):
    features, targets = data(count, channels)
    x = standardised(features)
    (found,) = module._ridge(torch.from_numpy(x), targets, (0.3,))
    expected = Ridge(0.3 * count).fit(x, 2.0 * targets.numpy() - 1)
    np.testing.assert_allclose(found[:-1].T, expected.coef_, atol=1e-8)
    np.testing.assert_allclose(found[-1], expected.intercept_, atol=1e-8)


@pytest.mark.parametrize("count, channels", [(60, 5), (30, 40)])
def test_logistic_is_that_of_scikit_learn_and_unknown_entries_enter_no_fit(count, channels):
    features, targets = data(count, channels)
    targets[:7, 1] = -1
    x = standardised(features)
    found = module._logistic(torch.from_numpy(x), targets, (0.01, 0.1))
    for row, penalty in zip(found, (0.01, 0.1), strict=True):
        for k in range(3):
            known = targets[:, k].numpy() >= 0
            one = LogisticRegression(C=1 / (2 * penalty * count), tol=1e-8, max_iter=5000)
            one.fit(x[known], targets[known, k].numpy())
            np.testing.assert_allclose(row[:-1, k], one.coef_[0], atol=5e-3)
            np.testing.assert_allclose(row[-1, k], one.intercept_[0], atol=5e-3)


def test_it_chooses_on_training_images_and_scores_once():
    features, targets = data(200, 30)
    test, test_targets = data(300, 30, seed=1)
    found = probe(features, targets, test, test_targets)
    assert found.kind in ("ridge", "logistic") and found.images == 200
    assert 0.75 < found.mAP < 1 and abs(found.validated - found.mAP) < 0.1
    shuffled = test_targets[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    other = probe(features, targets, test, shuffled)
    assert (other.kind, other.penalty, other.validated) == (found.kind, found.penalty, found.validated)
    assert other.mAP < 0.7 and found == probe(features, targets, test, test_targets)


def test_of_very_many_images_it_takes_some(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 50)
    features, targets = data(80, 4)
    assert probe(features, targets, features, targets).images == 50


def test_few_images_and_constant_features_are_no_trouble():
    features, targets = torch.ones(3, 4), torch.tensor([[1, 0], [0, -1], [1, 0]], dtype=torch.int8)
    found = probe(features, targets, features, targets)
    assert 0 <= found.mAP <= 1 and found.images == 3
    assert probe(features[:1], targets[:1], features, targets) is None


def test_without_a_class_that_has_an_ap_there_is_no_number():
    features, targets = data(20, 4)
    found = probe(features, targets, features[:2], torch.zeros(2, 3, dtype=torch.int8))
    assert np.isnan(found.mAP) and 0 < found.validated <= 1
