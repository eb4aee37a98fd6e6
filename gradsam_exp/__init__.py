"""gradsam_exp measures how well a classifier's heatmaps (Grad-CAM and others) prompt the Segment Anything Model.

The classes of the chain can be used without Hydra. Each is imported when it is first asked for, so that
``gradsam-exp --help`` need not wait for torch; ``__init__.pyi`` names them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
