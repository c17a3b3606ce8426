"""ChestXray: children's chest X-rays, with and without pneumonia (Kermany et al. 2018)."""

from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage, images_of_classes
from anomalib_ckaad.data.paper.layout import Layout, class_folders

KERMANY_PAGE = "https://data.mendeley.com/datasets/rscbjbr9sj/2"


def pneumonia_type(name: str) -> str:
    """Type of an X-ray with pneumonia, by its file name.

    Example:
        >>> pneumonia_type("person1_bacteria_2.jpeg"), pneumonia_type("VIRUS-1018228-0001.jpeg")
        ('bacteria', 'virus')
    """
    return next((kind for kind in ("bacteria", "virus") if kind in name.lower()), "pneumonia")


class ChestXray(LabeledData):
    """Chest X-rays of children, normal and with pneumonia, by bacteria or by a virus (Kermany et al. 2018, CC BY 4.0).

    ``ChestXRay2017.zip`` of https://data.mendeley.com/datasets/rscbjbr9sj/2 unpacks to::

        chest_xray/train/NORMAL     1,349 images
        chest_xray/train/PNEUMONIA  3,883, types bacteria and virus by their file names
        chest_xray/test/NORMAL      234
        chest_xray/test/PNEUMONIA   390

    Other folders are ignored, such as ``val`` with 16 of the training images in the copy on Kaggle. Arguments and
    splits are those of ``LabeledData``.
    """

    layout = Layout(
        folder="chest_xray",
        tree="{train,test}/{NORMAL,PNEUMONIA}",
        parts=class_folders(("train", "test"), ("NORMAL", "PNEUMONIA")),
        source=f"ChestXRay2017.zip from {KERMANY_PAGE}",
    )

    def images(self) -> list[LabeledImage]:
        """List all images of the data set."""
        images = images_of_classes(self.layout.find(self.root), ("NORMAL", "PNEUMONIA"), normal="NORMAL")
        return [image._replace(type=pneumonia_type(image.path.name)) if image.type else image for image in images]
