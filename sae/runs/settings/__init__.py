"""Every setting of a run: declared once, in frozen classes, for flags, files, config.json, docs."""

from sae.runs.settings.run_settings import RunSettings, settings_from, settings_from_file

__all__ = ["RunSettings", "settings_from", "settings_from_file"]
