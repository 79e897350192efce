"""One full page, drawn once for all tests that only read it."""

from __future__ import annotations

import pytest
from report_builders import Page, report

from statewise.report import render_html


@pytest.fixture(scope="session")
def html() -> str:
    return render_html(report())


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)
