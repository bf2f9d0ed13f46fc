"""Results of a run as values, and how they are shown.

The values: :class:`~rmtcli.report.base.Report` of most commands, and ``difference``, ``info``,
``reproduction`` and ``verification`` of one command each. ``renderers/`` holds the file formats of
a report, one module per format; ``terminal`` and ``views`` show the same rows and lines
elsewhere. ``conditions`` decides whether a run fails.

Decisions:

- *Rows and lines first.* A table is column names and rows of text, a summary is lines of label and
  text. Every renderer takes these, so that all of them say the same.
- *Text from a file is never trusted.* Names are escaped once where they enter a row or a line, and
  again by each renderer in the way of its format.
- *Conditions are checked by a list of names* before a library evaluates them with comparisons and
  arithmetic alone. A field that was not measured is an error, so that no run passes by default.
- *One drawing of a spectrum serves page and paper.* ``draw_esd`` draws in colours that have roles;
  the page replaces each colour by its CSS variable and is readable in light and dark.
"""
