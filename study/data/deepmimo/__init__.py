"""Import of DeepMIMO scenarios as users have them on disk; docs/data.md says how it is used.

    importing   the two passes over the scenes, and what becomes of a path
    version2    files of DeepMIMO v1 and v2: <scenario>.<base station>.CIR.mat and the like
    version4    files of DeepMIMO v4: power_t000_tx000_r001.npz and the like
    layout      what the two have in common
    grid        every n-th user of a grid
    files       scene folders, and arrays in files

The package deepmimo is not needed: the formats are read with NumPy and SciPy.
"""

from study.data.deepmimo.importing import ImportProgress, import_deepmimo

__all__ = ["ImportProgress", "import_deepmimo"]
