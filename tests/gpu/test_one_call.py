"""One call on a device: results go where the data are, and are those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kmeans_module import KMeansLayer, VectorQuantizer, kmeans, predict
from tests.conftest import DEVICE, blobs
from tests.gpu.conftest import needs_native

X = blobs(300, 4)


@needs_native
@pytest.mark.parametrize("most", [None, 20])
def test_arrays_and_tensors_are_clustered_on_a_device_and_stay_where_they_are(
    most: int | None,
) -> None:
    alone = kmeans(X, 5, seed=0, max_points_per_centroid=most)
    of_array = kmeans(X.numpy(), 5, seed=0, max_points_per_centroid=most, device=DEVICE)
    assert of_array.layer.centroids.device.type == DEVICE.type
    assert isinstance(of_array.labels, np.ndarray)
    there = kmeans(X.to(DEVICE), 5, seed=0, max_points_per_centroid=most)
    back = kmeans(X, 5, seed=0, max_points_per_centroid=most, device=DEVICE)
    for found, device in ((there, DEVICE.type), (back, "cpu")):
        for field in found[:-1]:
            assert field.device.type == device
    for found in (of_array, there, back):
        assert np.array_equal(torch.as_tensor(found.labels).cpu(), alone.labels)
        np.testing.assert_allclose(
            torch.as_tensor(found.centroids).cpu(), alone.centroids, rtol=1e-6
        )
        assert float(found.inertia) == pytest.approx(float(alone.inertia))


def test_batches_of_the_host_are_clustered_on_a_device() -> None:
    found = kmeans(list(X.split(70)), 5, seed=0, device=DEVICE)
    assert found.labels.device.type == "cpu"
    assert found.layer.centroids.device.type == DEVICE.type
    assert torch.equal(found.labels, found.layer(X.to(DEVICE)).cpu())


def test_a_source_labels_data_of_another_device() -> None:
    layer = KMeansLayer(5, 4)
    layer.fit(X, seed=0)
    expected = layer(X)
    assert torch.equal(predict(layer, X, device=DEVICE), expected)
    assert torch.equal(predict(layer, X.to(DEVICE)).cpu(), expected)
    assert layer.centroids.device.type == "cpu"
    there = layer.to(DEVICE)
    assert np.array_equal(predict(there, X.numpy()), expected)
    assert torch.equal(predict(there, list(X.split(70))), expected)
    quantizer = VectorQuantizer(5, 4)
    quantizer(X)
    codes = quantizer.eval().encode(X)
    assert torch.equal(predict(quantizer, X, device=DEVICE), codes)


def test_nan_is_refused_on_a_device() -> None:
    spoilt = X.clone()
    spoilt[[17, 40], 1] = torch.nan
    layer = KMeansLayer(5, 4)
    layer.fit(X, seed=0)
    with pytest.raises(ValueError, match="2 rows hold NaN or infinity, the first is row 17"):
        predict(layer, spoilt, device=DEVICE)
    with pytest.raises(ValueError, match="the first is row 17"):
        kmeans(spoilt, 5, seed=0, device=DEVICE)
