"""The feature browser: pages that open from disk, with the network off."""

from sae.pages.browser.write import PARTS, write_browser

__all__ = ["PARTS", "write_browser"]
