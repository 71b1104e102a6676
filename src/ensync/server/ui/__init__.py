"""A page in the browser that shows what an engine is doing."""

from __future__ import annotations

from ensync.server.ui.page import Page, open_page

__all__ = ["Page", "open_page"]
