"""Br35H: magnetic resonance images of heads, with and without a tumor."""

from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage
from anomalib_ckaad.data.paper.layout import Layout
from anomalib_ckaad.data.reading.image_paths import images_in

TRAIN_SHARE = 0.8


class Br35H(LabeledData):
    """Magnetic resonance images of heads, without and with a brain tumor (Br35H, Hamada 2020).

    The archive of https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection unpacks to::

        no   1,500 images
        yes  1,500 images, type tumor

    The data set has no split. As in the paper's code, the first 80 % of each folder, sorted by name as text, are for
    training and the others for testing. Other folders of the archive are ignored. Arguments and splits are those of
    ``LabeledData``.
    """

    layout = Layout(
        folder="Br35H",
        tree="{no,yes}",
        parts=(("no",), ("yes",)),
        source="the archive from https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
    )

    def images(self) -> list[LabeledImage]:
        """List all images of the data set."""
        root = self.layout.find(self.root)
        images = []
        for label, kind in (("no", ""), ("yes", "tumor")):
            paths = images_in(root / label)
            train = int(TRAIN_SHARE * len(paths))
            images += [LabeledImage(path, label, kind, "train") for path in paths[:train]]
            images += [LabeledImage(path, label, kind, "test") for path in paths[train:]]
        return images
