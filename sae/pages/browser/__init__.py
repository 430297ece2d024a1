"""The feature browser: pages that open from disk, with the network off."""

from sae.pages.browser.write import PAGE, PARTS, write_browser

__all__ = ["PAGE", "PARTS", "write_browser"]
