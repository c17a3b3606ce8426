"""OCT2017: optical coherence tomography of the retina (Kermany et al. 2018)."""

from anomalib_ckaad.data.paper.chest_xray import KERMANY_PAGE
from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage, images_of_classes
from anomalib_ckaad.data.paper.layout import Layout, class_folders

CLASSES = ("NORMAL", "CNV", "DME", "DRUSEN")


class OCT2017(LabeledData):
    """Tomography of normal retinas and of three diseases, CNV, DME and drusen (Kermany et al. 2018, CC BY 4.0).

    ``OCT2017.tar.gz`` of https://data.mendeley.com/datasets/rscbjbr9sj/2 unpacks to::

        OCT2017/train/{NORMAL,CNV,DME,DRUSEN}
        OCT2017/test/{NORMAL,CNV,DME,DRUSEN}

    Other folders are ignored, such as ``val`` in the copy on Kaggle. Arguments and splits are those of ``LabeledData``.
    """

    layout = Layout(
        folder="OCT2017",
        tree="{train,test}/{NORMAL,CNV,DME,DRUSEN}",
        parts=class_folders(("train", "test"), CLASSES),
        source=f"OCT2017.tar.gz from {KERMANY_PAGE}",
    )

    def images(self) -> list[LabeledImage]:
        """List all images of the data set."""
        return images_of_classes(self.layout.find(self.root), CLASSES, normal="NORMAL")
