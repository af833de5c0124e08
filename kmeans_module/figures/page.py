"""An animation that a notebook shows, and that can be saved as a page."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 560  # pixels


class Animation:
    """The iterations of a fit as a page that plays them.

    In a notebook it shows itself, inside a frame of its own: its scripts meet no others, and it is
    there again when the notebook is opened again. Where no frame is shown, as on paper, its last
    iteration is a picture.

    Args:
        page: HTML that refers to nothing outside of itself.
        name: what it shows, in words.
        last: draws the last iteration; None for no picture.

    Attributes:
        html: the page.
    """

    def __init__(
        self, page: str, name: str = "k-means", last: Callable[[], Figure] | None = None
    ) -> None:
        self.html = page
        self.name = name
        self._last = last

    def __repr__(self) -> str:
        return f"<Animation: {self.name}; save(path) writes a page for a browser>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.name)}" '
            f'sandbox="allow-scripts" width="100%" height="{_HEIGHT}" '
            'style="border: 0"></iframe>'
        )

    def _repr_png_(self) -> bytes | None:
        if self._last is None:
            return None
        file = io.BytesIO()
        self._last().savefig(file, format="png")
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, atomically.

        Args:
            path: of the .html file.

        Raises:
            OSError: the file cannot be written; names it.
        """
        from kmeans_module.files import write_atomically

        write_atomically(path, lambda file: file.write(self.html.encode("utf-8")))
