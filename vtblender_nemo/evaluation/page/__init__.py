"""An evaluation as one self-contained HTML page and as pictures."""

from vtblender_nemo.evaluation.page.write import write_page

__all__ = ["write_page"]
