"""How an answer shows itself. What is known does not import how it is drawn: pages register themselves for an answer.

@page.register
def _(answer: Report) -> Document: ...      # in ttsim.ui.render
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas


class Page(Protocol):
    """An answer that is laid out, and its values."""

    def values(self) -> Any:
        """Everything, as plain values in SI units."""

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Flat rows, for tables."""

    def render(self, form: Any = "text", width: int | None = None, colour: bool = False) -> str:
        """The page as text, markdown, csv, json or html."""

    def fragment(self) -> str:
        """The page as HTML that stands within another page."""


@functools.singledispatch
def page(answer: object) -> Page:
    """The page of an answer.

    Raises:
      TypeError: nothing is registered for it.
    """
    raise TypeError(f"a {type(answer).__name__} is no answer of ttsim that can be rendered")


def page_of(answer: object) -> Page:
    """As `page`, after the module that registers pages is imported: by its name, since it stands above this one."""
    importlib.import_module("ttsim.ui.render")
    return page(answer)


class Shown:
    """An answer that prints as text, shows itself in a notebook, and becomes plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values in SI units."""
        return dict(page_of(self).values())

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return page_of(self).render("json")

    def to_dataframe(self) -> pandas.DataFrame:
        """Its rows (of a report: one for each kernel of both phases) as pandas.DataFrame.

        Raises:
          ModuleNotFoundError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(page_of(self).records())

    def __str__(self) -> str:
        return page_of(self).render("text").rstrip("\n")

    def _repr_html_(self) -> str:
        return page_of(self).fragment()
