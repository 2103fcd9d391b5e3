"""The medical modalities: whole slides, radiographs, photographs, MR and CT volumes. All of their defaults are here."""

from functools import partial

from glimpse.envs.modality import make_modality
from glimpse.modalities import Modality, install
from glimpse.sources import PhotoSource, RadiographSource, SlideSource, VolumeSource

WSI = Modality(
    "wsi",
    SlideSource,
    reader="slide",
    # mpp: micrometres per pixel, in place of what files state; a column mpp counts more. The others are
    # of TIFFs that OpenSlide does not read, such as OME-TIFF; channels: names or numbers, such as [DAPI,CD3];
    # windows: "auto" (percentiles), [low, high], a list, or by name, such as {DAPI: [0, 4000]}; frame: which plane of a
    # stack, from 0; image: which one of a file that holds several, by name or number
    options={"mpp": None, "channels": None, "windows": None, "frame": None, "image": None},
    synthetic="glimpse.synthetic.slides.recipe:embedded_cohort",
    overview_size=256,
    glimpse_size=128,
    glimpse_extents=("128um",),  # 1 um per pixel, at which nuclei can be told apart
    max_glimpses=8,
    glimpse_cost=0.002,
    background=255,
    networks={"encoder": "efficientnet_lite0", "aggregator": "score_pooling"},
)
XRAY = Modality(
    "xray",
    RadiographSource,
    reader="radiograph",
    # window: None is the first one that a file states; or the index of another one, or [low, high];
    # spacing: millimetres per pixel; frame: which one of a file that holds several, from 0
    options={"window": None, "spacing": None, "frame": None},
    synthetic="glimpse.synthetic.radiographs.recipe:embedded_cohort",
    overview_size=256,
    glimpse_size=96,
    glimpse_extents=(192,),
    max_glimpses=8,
    glimpse_cost=0.002,
    networks={"encoder": "efficientnet_lite0", "aggregator": "score_pooling"},
)
PHOTO = Modality(
    "photo",
    PhotoSource,
    reader="photo",
    # spacing: millimetres per pixel; frame: which one of a file that holds several, from 0
    options={"spacing": None, "frame": None},
    synthetic="glimpse.synthetic.photos.recipe:embedded_cohort",
    overview_size=256,
    glimpse_size=96,
    glimpse_extents=(192,),
    max_glimpses=8,
    glimpse_cost=0.002,
    networks={"encoder": "efficientnet_lite0", "aggregator": "score_pooling"},
)
MRI = Modality(
    "mri",
    VolumeSource,
    reader="volume",
    # windows: "auto" (percentiles of each volume, since MR has no units), [low, high], or a list, one channel for each;
    # spacing: millimetres per voxel, one number or [z, y, x];
    # neighbours: how many slices on either side are added as channels;
    # series: which one of a folder that holds several, by SeriesInstanceUID, number or description;
    # frame: which volume of a file that holds several, from 0
    options={"windows": None, "spacing": None, "neighbours": 0, "series": None, "frame": None},
    synthetic="glimpse.synthetic.volumes.recipe:embedded_mri",
    synthetic_options={"windows": (0.0, 160.0)},  # its spots are brighter than the percentiles of "auto"
    overview_size=(40, 48, 40),
    glimpse_size=24,
    glimpse_extents=("24mm",),
    max_glimpses=16,
    glimpse_cost=0.002,
    networks={"encoder": "planar", "aggregator": "score_pooling"},
)
CT = Modality(
    "ct",
    VolumeSource,
    reader="volume",
    # as for MRI, but windows are in Hounsfield units, by name or as [low, high], one or several (["lung",
    # "mediastinum"]); foreground: "lungs" or "body"
    options={
        "windows": "lung",
        "spacing": None,
        "neighbours": 0,
        "series": None,
        "frame": None,
        "foreground": "lungs",
    },
    synthetic="glimpse.synthetic.volumes.recipe:embedded_ct",
    overview_size=(36, 36, 48),
    glimpse_size=24,
    glimpse_extents=("24mm",),
    max_glimpses=16,
    glimpse_cost=0.002,
    networks={"encoder": "axial", "aggregator": "score_pooling"},
)

for _modality in (WSI, XRAY, PHOTO, MRI, CT):
    install(_modality)

make_wsi, make_xray, make_photo, make_mri, make_ct = (
    partial(make_modality, modality=one.name) for one in (WSI, XRAY, PHOTO, MRI, CT)
)
