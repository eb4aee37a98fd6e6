"""This module names the colours of all figures and pages: Okabe and Ito's, for every eye, told apart in grey."""

FOREGROUND_POINT = "#E69F00"
BACKGROUND_POINT = "#0072B2"
MASK = "#CC79A7"
OTHER_MASK = "#009E73"  # of the run that another is compared with
TRUTH = "#FFFFFF"

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A000")
HEAT = "magma"  # matplotlib's name; rises in lightness all the way
AMOUNT = "cividis"


def heat_table() -> list[str]:
    """List the 256 colours of `HEAT`, as ``#rrggbb``, from cold to warm."""
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import to_hex  # noqa: PLC0415

    return [to_hex(colour) for colour in colormaps[HEAT](range(256))]
