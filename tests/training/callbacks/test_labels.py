import torch

from kmeans_module.training.callbacks.labels import RowLabels


def test_labels_are_put_in_the_order_of_their_rows():
    index = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    labels = RowLabels()
    for rows in index.split(6):
        labels.add(rows, rows * 3)
    assert len(labels) == 20
    assert torch.equal(labels.gather(None), torch.arange(20) * 3)


def test_a_row_of_no_batch_has_label_minus_1():
    labels = RowLabels()
    labels.add(torch.tensor([4, 1]), torch.tensor([7, 0]))
    assert labels.gather(None).tolist() == [-1, 0, -1, -1, 7]


def test_without_a_row_there_are_no_labels():
    assert RowLabels().gather(None).tolist() == []
