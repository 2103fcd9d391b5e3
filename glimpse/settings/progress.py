"""Says where progress bars are shown."""


def silent(progress: bool) -> bool | None:
    """Returns what `tqdm` takes as `disable`: True hides a bar; None shows it on a terminal only, not in a log file.

    Args:
        progress: whether bars were asked for; commands do so, functions of the library do not by themselves.
    """
    return None if progress else True
