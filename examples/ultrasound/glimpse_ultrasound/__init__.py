"""B-mode ultrasound as a modality of glimpse."""


def register() -> None:
    """Called by glimpse, through the entry point in `pyproject.toml`."""
    import glimpse
    from glimpse_ultrasound.source import UltrasoundSource
    from glimpse_ultrasound.synthetic import make_cohort

    glimpse.register_modality(
        "ultrasound",
        UltrasoundSource,
        suffixes=(".mhd",),
        synthetic=make_cohort,
        overview_size=128,
        glimpse_size=32,
        glimpse_extents=(64,),
        learning={
            "pretrain": {"augment": {"flips": [False, True]}},  # sound comes from above: upside down is no likely image
            "joint": {"updates": 60},
        },
    )
